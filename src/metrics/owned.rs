//! Families whose values belong to somebody with a name, a listener or an upstream: they come with him, are renamed with
//! him, and go when nobody holds him any more.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use prometheus::core::{Collector, Desc};
use prometheus::proto::{LabelPair, MetricFamily};
use prometheus::{Error, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts};

/// Makes families, and keeps those that were made, to be read.
#[derive(Default)]
pub(super) struct Set(Vec<Box<dyn Collector>>);

/// One owner's values of the families `F`.
pub(super) struct Owner<F> {
    name: Mutex<Arc<str>>,
    values: F,
    set: Set,
}

/// All who own values of the families `F`.
pub(super) struct Owners<F> {
    label: &'static str,
    make: fn(&mut Set) -> F,
    descriptions: Vec<Desc>,
    names: Mutex<Names<F>>,
}

/// Who is told of, and under which name.
struct Names<F> {
    by_name: HashMap<Arc<str>, Weak<Owner<F>>>,
    /// Those whose name is another's as well; they are told of when that one has laid it down.
    doubles: Vec<Weak<Owner<F>>>,
    /// Those who are gone are looked for when there are more than this.
    prune_at: usize,
}

impl Set {
    pub(super) fn gauge(&mut self, name: &str, help: &str) -> [IntGauge; 1] {
        [self.keep(IntGauge::new(name, help))]
    }

    pub(super) fn counter(&mut self, name: &str, help: &str) -> [IntCounter; 1] {
        [self.keep(IntCounter::new(name, help))]
    }

    /// Counters by the values of a label, of which each is counted from the first time that it is met.
    pub(super) fn counter_by(&mut self, name: &str, help: &str, label: &str) -> [IntCounterVec; 1] {
        [self.keep(IntCounterVec::new(Opts::new(name, help), &[label]))]
    }

    /// Counters by the values of a label, which are all known.
    pub(super) fn counters<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: [&str; N],
    ) -> [IntCounter; N] {
        let [family] = self.counter_by(name, help, label);
        values.map(|value| family.with_label_values(&[value]))
    }

    pub(super) fn histogram(&mut self, name: &str, help: &str, buckets: &[f64]) -> [Histogram; 1] {
        [self.keep(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())))]
    }

    fn keep<T: Collector + Clone + 'static>(&mut self, made: Result<T, Error>) -> T {
        // Each gateway makes all of them before it listens, so a bad one gets nowhere.
        let made = made.expect("names, labels and buckets are constants");
        self.0.push(Box::new(made.clone()));
        made
    }

    pub(super) fn into_collectors(self) -> Vec<Box<dyn Collector>> {
        self.0
    }
}

impl<F> Owners<F> {
    /// Nobody yet. `label` is what the name of an owner stands under.
    pub(super) fn new(label: &'static str, make: fn(&mut Set) -> F) -> Result<Arc<Self>, Error> {
        let mut set = Set::default();
        make(&mut set);
        let described = set.0.iter().flat_map(|collector| collector.desc());
        let described = described.map(|desc| {
            let labels = std::iter::once(label.to_owned()).chain(desc.variable_labels.iter().cloned()).collect();
            Desc::new(desc.fq_name.clone(), desc.help.clone(), labels, HashMap::new())
        });
        let descriptions = described.collect::<Result<_, _>>()?;
        let names = Names { by_name: HashMap::new(), doubles: Vec::new(), prune_at: 16 };
        Ok(Arc::new(Self { label, make, descriptions, names: Mutex::new(names) }))
    }

    /// The one who has this name, or a new one.
    pub(super) fn named(&self, name: &str) -> Arc<Owner<F>> {
        let known = self.names().by_name.get(name).and_then(Weak::upgrade);
        known.unwrap_or_else(|| self.new_one(name))
    }

    /// A new one, who may have the name of one who is about to lay it down.
    pub(super) fn new_one(&self, name: &str) -> Arc<Owner<F>> {
        let mut set = Set::default();
        let values = (self.make)(&mut set);
        let owner = Arc::new(Owner { name: Mutex::new(name.into()), values, set });
        let mut names = self.names();
        if names.by_name.len() + names.doubles.len() >= names.prune_at {
            names.prune();
        }
        names.add(&owner);
        owner
    }

    /// Gives an owner another name, whoever else still has it.
    pub(super) fn rename(&self, owner: &Arc<Owner<F>>, name: &str) {
        let mut names = self.names();
        let is_it = |known: &Weak<Owner<F>>| Weak::as_ptr(known) == Arc::as_ptr(owner);
        names.by_name.retain(|_, known| !is_it(known));
        names.doubles.retain(|known| !is_it(known));
        let name = Arc::from(name);
        *owner.lock() = Arc::clone(&name);
        let other = names.by_name.insert(name, Arc::downgrade(owner));
        names.doubles.extend(other);
        names.prune();
    }

    fn names(&self) -> MutexGuard<'_, Names<F>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F> Names<F> {
    fn add(&mut self, owner: &Arc<Owner<F>>) {
        let name = owner.name();
        match self.by_name.get(&name) {
            Some(other) if other.strong_count() > 0 => self.doubles.push(Arc::downgrade(owner)),
            _ => drop(self.by_name.insert(name, Arc::downgrade(owner))),
        }
    }

    /// Forgets those who are gone, and lets others take their names.
    fn prune(&mut self) {
        self.by_name.retain(|_, owner| owner.strong_count() > 0);
        for owner in std::mem::take(&mut self.doubles).iter().filter_map(Weak::upgrade) {
            self.add(&owner);
        }
        self.prune_at = 16 + 2 * (self.by_name.len() + self.doubles.len());
    }

    fn all(&mut self) -> Vec<(Arc<str>, Arc<Owner<F>>)> {
        self.prune();
        let named = self.by_name.iter();
        named.filter_map(|(name, owner)| Some((Arc::clone(name), owner.upgrade()?))).collect()
    }
}

impl<F> Owner<F> {
    pub(super) fn name(&self) -> Arc<str> {
        Arc::clone(&self.lock())
    }

    pub(super) fn values(&self) -> &F {
        &self.values
    }

    fn lock(&self) -> MutexGuard<'_, Arc<str>> {
        self.name.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the registry asks; `Arc` stands between the two because both hold it.
pub(super) struct Reader<F>(pub(super) Arc<Owners<F>>);

impl<F: Send + Sync> Collector for Reader<F> {
    fn desc(&self) -> Vec<&Desc> {
        self.0.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let owners = self.0.names().all();
        let mut families = Vec::new();
        for (name, owner) in owners {
            for mut family in owner.set.0.iter().flat_map(|collector| collector.collect()) {
                for metric in family.mut_metric() {
                    let mut label = LabelPair::default();
                    label.set_name(self.0.label.to_owned());
                    label.set_value(name.to_string());
                    let mut labels = metric.take_label();
                    labels.push(label);
                    labels.sort_by(|a, b| a.name().cmp(b.name()));
                    metric.set_label(labels);
                }
                families.push(family);
            }
        }
        families
    }
}

impl<F: fmt::Debug> fmt::Debug for Owner<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Owner").field("name", &self.name()).field("values", &self.values).finish_non_exhaustive()
    }
}

impl<F> fmt::Debug for Owners<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Owners").field("label", &self.label).finish_non_exhaustive()
    }
}
