//! Which Ingresses are the gateway's: by the class that they name, or by none where the gateway's class is that of all.

use k8s_openapi::api::networking::v1::Ingress;
use kube::ResourceExt;

use super::super::draft::Object;
use super::super::world::World;
use super::super::{CONTROLLER, Terms};

/// How an Ingress named its class before it had a field for that.
const LEGACY: &str = "kubernetes.io/ingress.class";
/// Says of a class that it is that of those who name none.
const IS_DEFAULT: &str = "ingressclass.kubernetes.io/is-default-class";

/// The gateway's Ingresses, the oldest first.
pub(super) fn ours<'a>(world: &'a World, terms: &Terms) -> Vec<(Object, &'a Ingress)> {
    let is_ours = |ingress: &Ingress| is_ours(ingress, world, terms);
    let mut ours: Vec<_> = world
        .ingresses
        .iter()
        .filter(|ingress| is_ours(ingress))
        .map(|ingress| (Object::of(&**ingress), &**ingress))
        .collect();
    ours.sort_by(|(one, _), (other, _)| one.cmp(other));
    ours
}

fn is_ours(ingress: &Ingress, world: &World, terms: &Terms) -> bool {
    let of_field = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_deref());
    let named = of_field.or_else(|| ingress.annotations().get(LEGACY).map(String::as_str));
    match (named, &world.classes) {
        // Where classes can't be read, they are known by name alone.
        (Some(named), None) => named == terms.class,
        (Some(named), Some(classes)) => {
            let class = classes.iter().find(|class| class.name_any() == named);
            match class {
                Some(class) => class.spec.as_ref().and_then(|spec| spec.controller.as_deref()) == Some(CONTROLLER),
                // A class by the old annotation needs no object.
                None => of_field.is_none() && named == terms.class,
            }
        }
        (None, classes) => {
            terms.without_class
                || classes.iter().flatten().any(|class| {
                    let is_default = class.annotations().get(IS_DEFAULT).is_some_and(|is| is == "true");
                    is_default && class.spec.as_ref().and_then(|spec| spec.controller.as_deref()) == Some(CONTROLLER)
                })
        }
    }
}
