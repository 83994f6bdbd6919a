//! How an exchange begins: what is known of a request whatever becomes of it, whether it may come, and where it goes.

use std::sync::Arc;

use ::http::header::STRICT_TRANSPORT_SECURITY;

use super::admit::Pace;
use super::place::Ties;
use super::rules::SHARE;
use super::{Core, Exchange, Form, RequestHead, rules};
use crate::filter::{FilterAnswer, Verdict};
use crate::http::Refusal;
use crate::http::request_id::RequestId;
use crate::listener::Info;
use crate::listener::tls::challenges;
use crate::router::{Action, Decision, Goal};
use crate::upstream::Fields;
use crate::wire::peer::FIELD;

impl Exchange {
    /// Begins with a request whose head is whole, asks the filters and the router, and knows then where the request
    /// goes, or why it doesn't. `announced` is the length of its body, where it says one.
    pub(crate) async fn begin(
        core: &Core,
        info: &Arc<Info>,
        request: &RequestHead<'_>,
        announced: Option<u64>,
    ) -> Box<Self> {
        let mut this = Self::of(core, info, request);
        let looked = this.look(request, announced);
        this.begin_trace(core, request);
        let decided = match looked {
            Ok(()) if this.is_question() => {
                Box::pin(this.testify(request)).await;
                Ok(())
            }
            Ok(()) if this.snapshot.filters.is_empty() || this.own.is_some() => this.enter(core, request, announced),
            Ok(()) => match this.ask_filters(request).await {
                Ok(Verdict::Pass) => this.enter(core, request, announced),
                Ok(Verdict::Answer(answer)) => {
                    this.own = Some(Box::new(answer));
                    Ok(())
                }
                Err(refusal) => Err(refusal),
            },
            Err(refusal) => Err(refusal),
        };
        let decided = match decided {
            Ok(()) if this.snapshot.waits && this.own.is_none() => Box::pin(this.admit_in_time(core, request)).await,
            decided => decided,
        };
        let decided = match decided {
            Ok(()) if this.snapshot.waits && this.own.is_none() => Box::pin(this.serve_file(request)).await,
            decided => decided,
        };
        this.decided(core, request, decided);
        this
    }

    /// The same, where no filter, password or service may have to be waited for; else `None`.
    pub(crate) fn begin_now(
        core: &Core,
        info: &Arc<Info>,
        request: &RequestHead<'_>,
        announced: Option<u64>,
    ) -> Option<Box<Self>> {
        let mut this = Self::of(core, info, request);
        let of_peer = this.snapshot.peering.is_some() && request.headers.get(FIELD).is_some();
        if !this.snapshot.filters.is_empty() || this.snapshot.waits || of_peer {
            return None;
        }
        let looked = this.look(request, announced);
        this.begin_trace(core, request);
        let decided = looked.and_then(|()| this.enter(core, request, announced));
        this.decided(core, request, decided);
        Some(this)
    }

    pub(super) fn of(core: &Core, info: &Arc<Info>, request: &RequestHead<'_>) -> Box<Self> {
        let mut this = Box::new(Self::new(if request.websocket { Form::Upgrade } else { Form::Plain }, core, info));
        if let Some(hsts) = info.hsts() {
            this.changes.to_client.set(STRICT_TRANSPORT_SECURITY, hsts.clone());
        }
        this
    }

    fn decided(&mut self, core: &Core, request: &RequestHead<'_>, decided: Result<(), Refusal>) {
        self.mark_for_pages(request);
        if let Err(refusal) = decided {
            self.refuse(core, refusal);
        } else if self.share().is_some() && self.own.is_none() {
            core.metrics.refused(SHARE);
        } else if self.polls && self.own.is_none() {
            self.overdue_goodbye(core, request);
        } else if let Some(route) = self.route.as_ref().filter(|_| !self.is_from_peer())
            && let Some(copying) = self.begin_copy(request, route)
        {
            self.ruled.get_or_insert_default().copying = Some(copying);
            self.send_copy();
        }
    }

    /// Begins with a connection that does not speak HTTP, and goes to the upstream of this name. Where a reload has taken
    /// that away meanwhile there is nowhere to go.
    pub(crate) fn begin_raw(core: &Core, info: &Arc<Info>, upstream: &str) -> Box<Self> {
        let mut this = Box::new(Self::new(Form::Raw, core, info));
        this.upstream = this.snapshot.upstreams.get(upstream).cloned();
        this.ties = Some(Ties::silent(info.peer.ip()));
        this.begin_raw_trace(core);
        this.admit_raw(core);
        this
    }

    /// Looks at a request whatever becomes of it; refuses one that is too long, or one too many.
    fn look(&mut self, head: &RequestHead<'_>, announced: Option<u64>) -> Result<(), Refusal> {
        self.know(head, announced)?;
        // Who comes from a peer has been counted there.
        if self.own.is_some() || self.is_from_peer() { Ok(()) } else { self.pace(head) }
    }

    /// What is known of a request whatever becomes of it; refuses one that is too long.
    pub(super) fn know(&mut self, head: &RequestHead<'_>, announced: Option<u64>) -> Result<(), Refusal> {
        let most = self.snapshot.config.limits.body.as_u64();
        if most != 0 && announced.is_some_and(|length| length > most) {
            return Err(Refusal::BodyTooLarge);
        }
        if self.snapshot.peering.is_some() {
            self.meet_peer(head);
        }
        let forwarding = &self.snapshot.config.forwarding;
        let peer = self.info.peer.ip();
        self.client = forwarding.client(peer, head.headers);
        if matches!(self.request_id, RequestId::None) {
            self.request_id = forwarding.request_id(peer, head.headers);
        }
        let longest = self.snapshot.config.limits.uri.as_u64();
        if longest != 0 && head.target.len() as u64 > longest {
            return Err(Refusal::UriTooLong);
        }
        if !self.snapshot.challenges.is_empty() && !self.secure() && head.method == "GET" {
            // An authority, which no rule and no filter stands before.
            let proof = challenges::answer(&self.snapshot.challenges, head.target);
            if let Some(proof) = proof {
                self.own = Some(Box::new(FilterAnswer::text(200, proof)));
            }
        }
        Ok(())
    }

    /// What the first filter says that answers.
    async fn ask_filters(&mut self, head: &RequestHead<'_>) -> Result<Verdict, Refusal> {
        let info = Arc::clone(&self.info);
        let request = head.request(&info, self.client)?;
        for filter in Arc::clone(&self.snapshot.filters).iter() {
            if let answer @ Verdict::Answer(_) = filter.request(&request, &mut self.changes).await {
                return Ok(answer);
            }
        }
        Ok(Verdict::Pass)
    }

    /// Finds the route, and whether whoever asks may go there.
    fn enter(&mut self, core: &Core, head: &RequestHead<'_>, announced: Option<u64>) -> Result<(), Refusal> {
        if self.own.is_some() {
            return Ok(());
        }
        let decided = self.decide(core, head, announced);
        if let Some(route) = &self.route {
            route.taken.count(&self.info.listener);
        }
        decided?;
        let pace = if self.is_from_peer() { Pace::Free } else { Pace::Paid };
        self.admit(head, pace)
    }

    pub(super) fn decide(
        &mut self,
        core: &Core,
        head: &RequestHead<'_>,
        announced: Option<u64>,
    ) -> Result<(), Refusal> {
        let info = Arc::clone(&self.info);
        let request = head.request(&info, self.client)?;
        let route = match self.snapshot.router.route(&request) {
            Decision::To(route) => route,
            Decision::Nowhere => return Err(Refusal::NoRoute),
            Decision::Ambiguous => return Err(Refusal::AmbiguousPath),
        };
        let target = Self::rewritten(&route, &request)?;
        let mut name = None;
        if matches!(route.action, Action::Upstream(_)) || route.split().is_some() {
            // Sessions are where their servers have them, whatever clients call the place.
            let onward = target.as_ref().map(|target| rules::with_target(&request, target)).transpose()?;
            let onward = onward.as_ref().unwrap_or(&request);
            name = match (self.side(&route, onward), &route.action) {
                (Some(&Goal::Respond(status)), _) => {
                    self.answer_share(status);
                    None
                }
                (Some(Goal::Upstream(name)), _) | (None, Action::Upstream(name)) => Some(name),
                (None, _) => None,
            };
            match name.map(|name| (name, self.snapshot.upstreams.get(name))) {
                Some((_, Some(upstream))) => {
                    let ties = Ties::new(upstream, onward);
                    if ties.is_ambiguous() {
                        return Err(Refusal::AmbiguousSession);
                    }
                    self.polls = self.form == Form::Plain && ties.polls();
                    self.ties = Some(ties);
                    self.upstream = Some(Arc::clone(upstream));
                }
                Some((name, None)) => core.stranger(&route.name, name),
                None => {}
            }
        }
        let lost = name.is_some() && self.upstream.is_none();
        self.will_come_back(head, &route, target);
        self.note_scheme(head, &route);
        self.rule(head, &request, &route);
        self.say_who_asks(head);
        if self.snapshot.peering.is_some() {
            self.think_of_peers(head);
        }
        // Nobody comes in any more, and a session has to come again. After a hand-over it does, to the next process.
        let opens = self.ties.as_ref().is_some_and(Ties::opens);
        if opens && core.ending.is_leaving() && !core.ending.is_handed_over() {
            return Err(Refusal::Stopping);
        }
        self.offer_compression(&route, head);
        let most = route.policy.as_ref().and_then(|policy| policy.most_body);
        self.route = Some(route);
        if most.is_some_and(|most| most != 0 && announced.is_some_and(|length| length > most)) {
            return Err(Refusal::BodyTooLarge);
        }
        if lost { Err(Refusal::NoRoute) } else { Ok(()) }
    }

    /// Where servers may have to be asked for the session, they are told of the client as they will be of its request.
    fn say_who_asks(&mut self, head: &RequestHead<'_>) {
        if self.ties.as_mut().and_then(Ties::questions).is_none() {
            return;
        }
        let fields = self.own_fields(head);
        if let Some(questions) = self.ties.as_mut().and_then(Ties::questions) {
            questions.fields = fields;
        }
    }

    /// What a request of the gateway's own says of the client that it is made for.
    pub(super) fn own_fields(&self, head: &RequestHead<'_>) -> Fields {
        let host = self.host(head).map(|host| (Box::from("host"), host.to_vec()));
        let mut fields: Fields = host.into_iter().collect();
        self.to_server(head).add(|name, value| fields.push((name.into(), value.to_vec())));
        fields
    }
}
