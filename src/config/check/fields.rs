//! Changes to header fields: that their names can be changed at all, and that their values can be written.

use std::collections::HashSet;

use super::{Report, Spot, words};
use crate::config::fault::nearest;
use crate::config::shape::{one_of, quoted};
use crate::filter::config::{FieldValue, HeaderRules};
use crate::filter::{Expression, Template, TemplateFault, Variable};
use crate::http::hop_by_hop::is_hop_by_hop;

/// Whose fields are changed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    Requests,
    Answers,
}

pub(super) fn check(rules: &HeaderRules, spot: &Spot<'_>, of: Of, report: &mut Report) {
    let mut said = HashSet::new();
    let set = spot.key("set");
    for (spot, (field, text)) in set.each_key(&rules.set) {
        name(field, &spot.as_str(), of, report);
        if !said.insert(field.to_ascii_lowercase()) {
            report.fault(&spot.as_str(), "written twice: the names of headers have no case");
        }
        value(text, &spot, of, report);
    }
    for (spot, (field, texts)) in spot.key("add").each_key(&rules.add) {
        name(field, &spot.as_str(), of, report);
        if spot.is_empty_list() {
            report.fault(&spot, "found an empty list, expected a value");
        }
        for (spot, text) in spot.each_inner(&texts.0) {
            value(text, &spot, of, report);
        }
    }
    for (spot, field) in spot.key("remove").each(&rules.remove.0) {
        name(field, &spot, of, report);
        if said.contains(&field.to_ascii_lowercase()) {
            report.fault(&spot, "found in `set`, too, which removes what is there by itself");
        }
    }
}

/// A value that variables may stand in, or an expression.
fn value(said: &FieldValue, spot: &Spot<'_>, of: Of, report: &mut Report) {
    let text = match said {
        FieldValue::Text(text) => text,
        FieldValue::Cel(text) => {
            return report.well_formed(&spot.key("cel"), words::expression(Expression::compile_value(text)));
        }
    };
    report.well_formed(spot, words::header_value(text));
    match Template::read(text) {
        Ok(template) if of == Of::Requests && template.waits_for_server() => {
            report.fault(spot, "found `${server.name}`, which is only known of answers: use it in `response_headers`");
        }
        Ok(_) => {}
        Err(TemplateFault::Open) => {
            report.fault(spot, format!("found {}, expected a `}}` that closes it", quoted(text)))
        }
        Err(TemplateFault::Unknown(name)) => {
            let names: Vec<&str> = Variable::names().collect();
            let hint = match nearest(&name, names.iter().copied()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("expected {}", one_of(&names)),
            };
            report.fault(spot, format!("unknown variable {}, {hint}", quoted(&name)));
        }
    }
}

/// A field that is the operator's to change.
fn name(field: &str, spot: &Spot<'_>, of: Of, report: &mut Report) {
    report.well_formed(spot, words::header_name(field));
    let name = field.to_ascii_lowercase();
    let handshake = ["sec-websocket-key", "sec-websocket-accept", "sec-websocket-version"];
    if is_hop_by_hop(&name) || matches!(&*name, "content-length" | "transfer-encoding" | "expect") {
        report.fault(spot, "the gateway writes this header itself");
    } else if handshake.contains(&&*name) {
        report.fault(spot, "client and server agree on a WebSocket by it: it passes as it is");
    } else if of == Of::Requests && name == "host" {
        report.fault(spot, "found `host`, which the key `host` of a route or an upstream says");
    }
}
