//! Where work goes: one upstream, or several goals with a share each. Which of them takes what is the business of those who
//! have the work.

use std::fmt;
use std::sync::Arc;

use rand::Rng;
use serde::de::value::SeqAccessDeserializer;
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// `upstream`: the name of one, or a list of several with their shares.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Upstreams(pub Vec<Share>);

/// One entry of several: either `name` or `respond`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// The name of the upstream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// In place of one: the status that the gateway answers with by itself. Only for requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub respond: Option<u16>,
    /// Its share beside the others, 0 to 1000; 0 for nothing new. Default 1.
    #[serde(default = "one")]
    pub weight: u16,
}

fn one() -> u16 {
    1
}

impl Upstreams {
    /// The only one that has a name, or the first of them; `None` where all is answered here.
    pub fn first(&self) -> Option<&str> {
        self.names().next()
    }

    /// The names of those that have one.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|share| share.name.as_deref())
    }
}

impl From<&str> for Upstreams {
    fn from(name: &str) -> Self {
        Self(vec![Share { name: Some(name.to_owned()), respond: None, weight: one() }])
    }
}

/// As people write it: `app`, or `respond 500`.
impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.name, self.respond) {
            (Some(name), _) => f.write_str(name),
            (None, Some(status)) => write!(f, "respond {status}"),
            (None, None) => f.write_str("nobody"),
        }
    }
}

impl Serialize for Upstreams {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [Share { name: Some(name), respond: None, weight: 1 }] => serializer.serialize_str(name),
            shares => shares.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Upstreams {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Upstreams;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of an upstream, or a list such as `[{ name: a, weight: 9 }, { name: b }]`")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Upstreams, E> {
                Ok(Upstreams::from(name))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Upstreams, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(Upstreams)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// Goals with their shares, of which a number picks one. It is never empty.
#[derive(Clone, Debug)]
pub(crate) struct Shares<T> {
    /// Each with the weights up to it, its own included.
    goals: Vec<(T, u64)>,
}

impl Shares<Arc<str>> {
    /// Those of connections, of which none is answered here; `None` where there are none.
    pub(crate) fn of(said: &Upstreams) -> Option<Self> {
        let named = said.0.iter().filter_map(|share| Some((share.name.as_deref()?.into(), share.weight)));
        Self::new(named)
    }
}

impl<T> Shares<T> {
    /// `None` where there are none.
    pub(crate) fn new(goals: impl IntoIterator<Item = (T, u16)>) -> Option<Self> {
        let mut upto = 0;
        let goals = goals.into_iter().map(|(goal, weight)| {
            upto += u64::from(weight);
            (goal, upto)
        });
        let goals: Vec<_> = goals.collect();
        (!goals.is_empty()).then_some(Self { goals })
    }

    /// All of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = &T> {
        self.goals.iter().map(|(goal, _)| goal)
    }

    /// Those that are given something new.
    pub(crate) fn live(&self) -> impl Iterator<Item = &T> {
        let mut before = 0;
        let live = self.goals.iter().filter(move |(_, upto)| *upto > std::mem::replace(&mut before, *upto));
        live.map(|(goal, _)| goal)
    }

    /// The one for a number; numbers that are spread evenly give each its share.
    pub(crate) fn at(&self, number: u64) -> &T {
        let point = number % self.total();
        self.goals.iter().find(|(_, upto)| point < *upto).map_or(&self.goals[0].0, |(goal, _)| goal)
    }

    /// One by chance.
    pub(crate) fn draw(&self) -> &T {
        match self.goals.as_slice() {
            [(only, _)] => only,
            _ => self.at(rand::rng().random_range(0..self.total())),
        }
    }

    fn total(&self) -> u64 {
        self.goals.last().map_or(1, |(_, upto)| (*upto).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Upstreams {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_name_alone_is_written_as_a_name() {
        for (said, written) in [
            (r#""app""#, r#""app""#),
            (r#"[{"name": "app"}]"#, r#""app""#),
            (r#"[{"name": "app", "weight": 2}]"#, r#"[{"name":"app","weight":2}]"#),
            (r#"[{"respond": 500}]"#, r#"[{"respond":500,"weight":1}]"#),
        ] {
            assert_eq!(serde_json::to_string(&read(said)).unwrap(), written);
            assert_eq!(read(written), read(said));
        }
        let both = read(r#"[{"respond": 500}, {"name": "app"}, {"name": "other"}]"#);
        assert_eq!((both.first(), both.names().count()), (Some("app"), 2));
        assert_eq!(both.0.iter().map(Share::to_string).collect::<Vec<_>>(), ["respond 500", "app", "other"]);
        assert_eq!(read(r#"[{"respond": 500}]"#).first(), None);
    }

    #[test]
    fn each_goal_gets_its_share_and_one_without_a_weight_nothing() {
        let shares = Shares::new([("a", 2), ("none", 0), ("b", 1)]).unwrap();
        assert_eq!((0..6).map(|number| *shares.at(number)).collect::<String>(), "aabaab");
        assert_eq!(shares.live().copied().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(shares.all().count(), 3);
        let drawn = (0..3000).filter(|_| *shares.draw() == "b").count();
        assert!((800..1200).contains(&drawn), "{drawn}");
        assert_eq!(*Shares::new([("only", 0)]).unwrap().draw(), "only");
        assert!(Shares::<&str>::new([]).is_none());
    }
}
