//! `cidr("10.0.0.0/8")`: a network that addresses are in.

use std::any::Any;
use std::net::IpAddr;

use cel::common::traits::Container;
use cel::common::types::{CelString, Type};
use cel::common::value::{StaticVal, Val};
use cel::{DeclarationError, Env, ExecutionError};
use ipnet::IpNet;

static TYPE: Type = Type::new_unspecified_type("network");

/// A network, as expressions have it.
#[derive(Clone, Debug, PartialEq)]
struct Network(IpNet);

/// Adds the function to those that expressions know.
pub(super) fn declare(env: &mut Env) -> Result<(), DeclarationError> {
    cel::add_overload!(env, fn cidr: (CelString) -> Result<Network>)
}

/// Reads a network, or an address, which is the network of itself.
pub(super) fn read(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

fn cidr(text: &CelString<'_>) -> Result<Network, ExecutionError> {
    read(text.inner()).map(Network).ok_or_else(|| ExecutionError::function_error("cidr", "this is no network"))
}

impl Val for Network {
    fn get_type(&self) -> &Type {
        <Self as Val>::cel_type()
    }

    fn cel_type() -> &'static Type {
        &TYPE
    }

    fn as_container(&self) -> Option<&dyn Container> {
        Some(self)
    }

    fn equals(&self, other: &dyn Val) -> bool {
        other.downcast_ref::<Self>().is_some_and(|other| other == self)
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
        Box::new(self.clone())
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl StaticVal for Network {}

impl Container for Network {
    fn contains(&self, value: &dyn Val) -> Result<bool, ExecutionError> {
        let address = value.downcast_ref::<CelString>().and_then(|text| text.inner().parse::<IpAddr>().ok());
        Ok(address.is_some_and(|address| self.0.contains(&address.to_canonical())))
    }
}
