//! Kubernetes' API server, as far as a gateway asks it: who asks and where, and one way of following objects of any kind.
//! What they mean is left to those who ask.

mod api;
mod follow;

pub(crate) use api::{connect, told};
pub(crate) use follow::{Follow, Kind, News, Which};
