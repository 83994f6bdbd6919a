//! What operators ask of a running gateway: tables for people, JSON for machines, and drains that are watched to their end.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::ask::{At, Door, run};
use super::table::{self, Table, count, rate, share, time};

/// Why a command could not be done, in a sentence.
type Told = Result<(), String>;

/// Which server is meant: `name`, or `upstream/name`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Which {
    /// The server: its name, with its upstream before it where several have one of that name: node1 or socket_io/node1.
    server: String,
}

/// How a drain goes; what is not said, `drain` of the upstream says.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Pace {
    /// Goodbyes in a second.
    #[arg(long, value_name = "NUMBER")]
    rate: Option<f64>,
    /// The share by which each pause is varied at random, 0 to 1.
    #[arg(long, value_name = "SHARE")]
    jitter: Option<f64>,
    /// Whoever is left then goes at once: 30s, 5m.
    #[arg(long, value_name = "TIME")]
    deadline: Option<String>,
    /// Tell nobody goodbye: sessions stay until they end.
    #[arg(long, conflicts_with_all = ["rate", "jitter", "deadline"])]
    no_goodbye: bool,
    /// Don't wait for its end.
    #[arg(long)]
    no_wait: bool,
}

/// Which sessions are meant.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct Listing {
    /// One session, by its id or by the name that lists and logs have for it.
    session: Option<String>,
    /// End that one politely: its client opens another.
    #[arg(long, requires = "session")]
    end: bool,
    /// Only of this upstream.
    #[arg(long, value_name = "NAME")]
    upstream: Option<String>,
    /// Only those on this server.
    #[arg(long, value_name = "NAME")]
    server: Option<String>,
    /// Only of clients with this address, or in this network.
    #[arg(long, value_name = "ADDRESS")]
    address: Option<String>,
    /// Only those that speak so.
    #[arg(long, value_name = "polling|websocket")]
    transport: Option<String>,
    /// Only those that are older: 5m.
    #[arg(long, value_name = "TIME")]
    older_than: Option<String>,
    /// At most so many.
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    limit: usize,
}

/// Does something with a gateway; says why it can't.
pub(super) fn with(at: &At, work: impl AsyncFnOnce(&Door) -> Told) -> ExitCode {
    let done = at.door().and_then(|door| run(async { work(&door).await }).map_err(|error| error.to_string())?);
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("{fault}");
            ExitCode::FAILURE
        }
    }
}

/// Prints for whoever reads: a pipe that is closed has read enough.
pub(super) fn print(text: impl AsRef<str>) {
    let _ = std::io::stdout().write_all(text.as_ref().as_bytes());
}

fn print_json(value: &Value) {
    print(serde_json::to_string_pretty(value).unwrap_or_default() + "\n");
}

/// `sockgate status`.
pub(super) async fn status(door: &Door, as_json: bool) -> Told {
    let status = door.told("GET", "/api/v1/status", None).await?;
    if as_json {
        print_json(&status);
        return Ok(());
    }
    let upstreams = door.told("GET", "/api/v1/upstreams", None).await?;
    let config = door.told("GET", "/api/v1/config", None).await?;
    print(headline(door, &status));
    let mut table =
        Table::new(&["UPSTREAM", "KIND", "BALANCE"], &["UP", "SESSIONS", "WEBSOCKET", "WAITING", "RATE", "FAILED"]);
    for upstream in items(&upstreams) {
        let servers = items(&upstream["servers"]);
        let up = servers.iter().filter(|server| server["state"] == "up").count();
        let (sessions, websockets) = match &upstream["sessions"]["live"] {
            Value::Null => ("-".to_owned(), "-".to_owned()),
            live => {
                let websockets: u64 =
                    servers.iter().filter_map(|server| server["sessions_on_websocket"].as_u64()).sum();
                (count(live), share(websockets, live.as_u64().unwrap_or(0)))
            }
        };
        table.row([
            text(&upstream["name"]),
            text(&upstream["kind"]),
            text(&upstream["balance"]),
            format!("{up} of {}", servers.len()),
            sessions,
            websockets,
            count(&upstream["waiting"]),
            rate(&upstream["answered_per_second"]),
            rate(&upstream["failed_per_second"]),
        ]);
    }
    print(format!("\n{table}"));
    for difference in items(&config["differences"]) {
        print(format!(
            "not as in the file: {}/{} {} is {}, not {}\n",
            text(&difference["upstream"]),
            text(&difference["server"]),
            text(&difference["key"]),
            text(&difference["now"]),
            text(&difference["file"]),
        ));
    }
    Ok(())
}

/// What stands above every table: how the gateway is.
pub(super) fn headline(door: &Door, status: &Value) -> String {
    let how = match (status["stopping"] == true, status["ready"] == true) {
        (true, _) => "stopping",
        (false, true) => "ready",
        (false, false) => "not ready",
    };
    let (sessions, websockets) = (&status["sessions"], status["sessions_on_websocket"].as_u64().unwrap_or(0));
    let configuration = &status["configuration"];
    let mut lines = format!(
        "sockgate {} at {}: {how}, up {}\nconfiguration {}, loaded {}\n{} connections, {} sessions ({} on WebSocket), {} \
         answers a second\n",
        text(&status["version"]),
        door.address,
        time(status["uptime_seconds"].as_f64().unwrap_or(0.0)),
        count(&configuration["generation"]),
        text(&configuration["loaded"]),
        count(&status["connections"]),
        count(sessions),
        share(websockets, sessions.as_u64().unwrap_or(0)),
        rate(&status["answered_per_second"]),
    );
    for note in items(&status["notes"]) {
        lines += &format!("! {}\n", text(note));
    }
    if let Some(fault) = configuration["error"].as_str() {
        lines += &format!("! the last reload failed, everything has stayed as it was: {fault}\n");
    }
    lines
}

/// `sockgate servers`.
pub(super) async fn servers(door: &Door, as_json: bool) -> Told {
    let servers = door.told("GET", "/api/v1/servers", None).await?;
    if as_json {
        print_json(&servers);
    } else {
        print(servers_table(items(&servers).iter()).to_string());
    }
    Ok(())
}

/// Servers in rows.
pub(super) fn servers_table<'a>(servers: impl Iterator<Item = &'a Value>) -> Table {
    let left = ["SERVER", "STATE"];
    let right = ["WEIGHT", "SESSIONS", "WEBSOCKET", "IN FLIGHT", "RATE", "FAULTS"];
    let mut table = Table::new(&left, &right).and_last("WHY");
    for server in servers {
        let (sessions, websockets) = match server["sessions_on_websocket"].as_u64() {
            None => ("-".to_owned(), "-".to_owned()),
            Some(on) => (count(&server["sessions"]), share(on, server["sessions"].as_u64().unwrap_or(0))),
        };
        let weight = match (&server["weight"], &server["configured_weight"]) {
            (now, said) if now == said => count(now),
            (now, said) => format!("{} ({})", count(now), count(said)),
        };
        let faults = server["connect_failures"].as_u64().unwrap_or(0) + server["bad_answers"].as_u64().unwrap_or(0);
        table.row([
            format!("{}/{}", text(&server["upstream"]), text(&server["name"])),
            text(&server["state"]),
            weight,
            sessions,
            websockets,
            count(&server["in_flight"]),
            rate(&server["per_second"]),
            count(&faults.into()),
            text(&server["why"]),
        ]);
    }
    table
}

/// `sockgate sessions`.
pub(super) async fn sessions(door: &Door, asked: &Listing, as_json: bool) -> Told {
    let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    if let Some(session) = &asked.session {
        let of = asked.upstream.as_deref().map(|name| format!("?upstream={}", encoded(name))).unwrap_or_default();
        let path = format!("/api/v1/sessions/{}{of}", encoded(session));
        if asked.end {
            let ended = door.told("DELETE", &path, None).await?;
            match text(&ended["told"]).as_str() {
                _ if as_json => print_json(&ended),
                "at_once" => print("its client was told goodbye\n"),
                _ => print("its client is told goodbye with its next request\n"),
            }
        } else {
            let session = door.told("GET", &path, None).await?;
            if as_json { print_json(&session) } else { print(sessions_table(&[session]).to_string()) }
        }
        return Ok(());
    }
    let filters = [
        ("upstream", &asked.upstream),
        ("server", &asked.server),
        ("address", &asked.address),
        ("transport", &asked.transport),
        ("older_than", &asked.older_than),
    ];
    let filters = filters.iter().filter_map(|(key, value)| Some(format!("&{key}={}", encoded(value.as_ref()?))));
    let filters: String = filters.collect();
    let (mut all, mut cursor, mut live) = (Vec::new(), String::new(), Value::Null);
    while all.len() < asked.limit {
        let limit = (asked.limit - all.len()).min(1000);
        let mut page = door.told("GET", &format!("/api/v1/sessions?limit={limit}{filters}{cursor}"), None).await?;
        live = page["live"].take();
        let next = page["next"].as_str().map(|next| format!("&cursor={}", encoded(next)));
        all.extend(page["sessions"].take().as_array_mut().map(std::mem::take).unwrap_or_default());
        let Some(next) = next else { break };
        cursor = next;
    }
    if as_json {
        print_json(&json!({ "sessions": all, "live": live }));
    } else {
        print(format!("{}{} of {} sessions\n", sessions_table(&all), all.len(), count(&live)));
    }
    Ok(())
}

fn sessions_table(sessions: &[Value]) -> Table {
    let mut table = Table::new(&["SESSION", "SERVER", "TRANSPORT", "CLIENT", "LISTENER"], &["AGE"]);
    for session in sessions {
        let or_none = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        table.row([
            text(&session["session"]),
            format!("{}/{}", text(&session["upstream"]), text(&session["server"])),
            text(&session["transport"]),
            or_none(&session["address"]),
            or_none(&session["listener"]),
            time(session["age_seconds"].as_f64().unwrap_or(0.0)),
        ]);
    }
    table
}

/// A server's path in the API, and what people call it.
async fn find(door: &Door, which: &Which) -> Result<(String, String), String> {
    let servers = door.told("GET", "/api/v1/servers", None).await?;
    let named = |server: &Value| format!("{}/{}", text(&server["upstream"]), text(&server["name"]));
    let meant = |server: &&Value| named(server) == which.server || text(&server["name"]) == which.server;
    let found: Vec<&Value> = items(&servers).iter().filter(meant).collect();
    match found[..] {
        [server] => {
            let encoded = |value: &Value| utf8_percent_encode(&text(value), NON_ALPHANUMERIC).to_string();
            let path = format!("/api/v1/servers/{}/{}", encoded(&server["upstream"]), encoded(&server["name"]));
            Ok((path, named(server)))
        }
        [] => {
            let known: Vec<String> = items(&servers).iter().map(named).collect();
            Err(format!("there is no server `{}`, only {}", which.server, known.join(", ")))
        }
        _ => {
            let those: Vec<String> = found.iter().map(|server| named(server)).collect();
            Err(format!("several servers are called `{}`: say {}", which.server, those.join(" or ")))
        }
    }
}

/// Time from one look at a drain to the next.
const LOOK: Duration = Duration::from_millis(250);

/// `sockgate drain`.
pub(super) async fn drain(door: &Door, which: &Which, pace: &Pace, as_json: bool) -> Told {
    let (path, name) = find(door, which).await?;
    let path = format!("{path}/drain");
    let mut asked = json!({});
    let Pace { rate, jitter, deadline, no_goodbye, no_wait } = pace;
    let said = [("rate", rate.map(Value::from)), ("jitter", jitter.map(Value::from))];
    let said = said
        .into_iter()
        .chain([("deadline", deadline.clone().map(Value::from)), ("goodbye", no_goodbye.then_some(false.into()))]);
    for (key, value) in said {
        if let Some(value) = value {
            asked[key] = value;
        }
    }
    let mut told = door.told("POST", &path, Some(&asked)).await?;
    if let Some(warning) = told["would"]["warning"].as_str() {
        eprintln!("warning: {warning}");
    }
    // Without goodbyes the end may be days away.
    if *no_wait || *no_goodbye {
        if as_json {
            print_json(&told)
        } else {
            print(format!("{name} drains: it gets no new sessions\n"))
        }
        return Ok(());
    }
    let mut bar = table::Bar::new(std::io::stdout().is_terminal() && !as_json);
    let begun = std::time::Instant::now();
    while told["progress"]["over"] == false {
        if !as_json {
            bar.show(&drained(&name, &told));
        }
        tokio::time::sleep(LOOK).await;
        told = door.told("GET", &path, None).await?;
    }
    bar.end();
    match &told["progress"] {
        Value::Null => return Err(format!("{name} was taken back: it drains no longer")),
        _ if as_json => print_json(&told),
        progress => print(format!(
            "{name} is drained: {} told goodbye in {}, {} sessions left\n",
            count(&progress["told_goodbye"]),
            time(begun.elapsed().as_secs_f64()),
            count(&progress["sessions"]),
        )),
    }
    Ok(())
}

/// A drain on one line, with a bar.
fn drained(name: &str, told: &Value) -> String {
    let progress = &told["progress"];
    let (gone, open) = (progress["told_goodbye"].as_u64().unwrap_or(0), progress["open"].as_u64().unwrap_or(0));
    format!(
        "{name} {} {} told goodbye, {} open, {} sessions left",
        table::bar(gone as f64 / (gone + open).max(1) as f64, 24),
        count(&gone.into()),
        count(&open.into()),
        count(&progress["sessions"]),
    )
}

/// `sockgate undrain`.
pub(super) async fn undrain(door: &Door, which: &Which, as_json: bool) -> Told {
    let (path, name) = find(door, which).await?;
    let told = door.told("DELETE", &format!("{path}/drain"), None).await?;
    if as_json {
        print_json(&told)
    } else {
        print(format!("{name} is back: it gets new sessions\n"))
    }
    Ok(())
}

/// `sockgate weight`.
pub(super) async fn weight(door: &Door, which: &Which, weight: Option<u32>, as_json: bool) -> Told {
    let (path, name) = find(door, which).await?;
    let told = door.told("PUT", &format!("{path}/weight"), Some(&json!({ "weight": weight }))).await?;
    if as_json {
        print_json(&told);
    } else {
        let (now, said) = (count(&told["weight"]), count(&told["configured_weight"]));
        let until = if now == said {
            "as in the file".to_owned()
        } else {
            format!("until the file says something new of it: {said} there")
        };
        print(format!("{name} has weight {now}, {until}\n"));
    }
    Ok(())
}

/// `sockgate reload`.
pub(super) async fn reload(door: &Door, plan_only: bool, as_json: bool) -> Told {
    let (method, path) = if plan_only { ("GET", "/api/v1/reload/plan") } else { ("POST", "/api/v1/reload") };
    let plan = door.told(method, path, None).await?;
    if as_json {
        print_json(&plan);
        return Ok(());
    }
    let plan: crate::reload::Plan =
        serde_json::from_value(plan).map_err(|error| format!("expected a plan: {error}"))?;
    print(format!("{}\n", plan.to_string().trim_end()));
    Ok(())
}

/// A list's items; none where it is no list.
pub(super) fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A text as it is; anything else as JSON writes it.
pub(super) fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
