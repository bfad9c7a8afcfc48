//! One metric with all of its series: handles are resolved once and then found by position.
//!
//! Only `catalogue` makes families. They register with paygauge's own recorder rather than with the global one, so
//! that nothing outside of the catalogue can reach the exposition, and a metric that is touched before `init` counts.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::{LazyLock, OnceLock, PoisonError, RwLock};

use metrics::{Counter, Gauge, Key, KeyName, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

use super::catalogue::{self, Kind, MetricInfo};
use super::histogram::Histogram;
use super::labels::Label;
use super::parts::metrics_are_off;

/// Families with more possible series than this keep only those that occurred.
const DENSE_SERIES: usize = 2048;

static METADATA: Metadata<'static> = Metadata::new("paygauge", Level::INFO, None);

/// The recorder behind every family and every exposition of this process.
pub(super) fn recorder() -> &'static PrometheusRecorder {
    static RECORDER: LazyLock<PrometheusRecorder> = LazyLock::new(build_recorder);
    &RECORDER
}

fn build_recorder() -> PrometheusRecorder {
    let recorder = PrometheusBuilder::new().build_recorder();
    for metric in catalogue::all() {
        describe(&recorder, metric);
    }
    recorder
}

fn describe(recorder: &PrometheusRecorder, metric: &'static MetricInfo) {
    let name = KeyName::from_const_str(metric.name);
    match metric.kind {
        Kind::Counter => recorder.describe_counter(name, None, metric.help.into()),
        Kind::Gauge => recorder.describe_gauge(name, None, metric.help.into()),
        // `histogram` writes its own.
        Kind::Histogram => {}
    }
}

/// A handle of one series.
pub trait Instrument: Send + Sync + 'static {
    /// Makes the series exist.
    fn register(key: &Key) -> Self;
}

impl Instrument for Counter {
    fn register(key: &Key) -> Self {
        if metrics_are_off() { Self::noop() } else { recorder().register_counter(key, &METADATA) }
    }
}

impl Instrument for Gauge {
    fn register(key: &Key) -> Self {
        if metrics_are_off() { Self::noop() } else { recorder().register_gauge(key, &METADATA) }
    }
}

impl Instrument for Histogram {
    fn register(key: &Key) -> Self {
        Self::register(key)
    }
}

/// The label values of one series, in the order of the label names.
pub trait LabelSet: Copy + Send + Sync + 'static {
    /// How many combinations there can be.
    const SIZE: usize;
    /// The position of this combination, below [`LabelSet::SIZE`].
    fn index(self) -> usize;
    /// The combination at a position.
    fn nth(index: usize) -> Option<Self>;
    /// The texts.
    fn texts(self) -> Vec<&'static str>;
}

impl LabelSet for () {
    const SIZE: usize = 1;

    fn index(self) -> usize {
        0
    }

    fn nth(index: usize) -> Option<Self> {
        (index == 0).then_some(())
    }

    fn texts(self) -> Vec<&'static str> {
        Vec::new()
    }
}

macro_rules! label_set {
    ($($label:ident $value:ident),+) => {
        impl<$($label: Label),+> LabelSet for ($($label,)+) {
            const SIZE: usize = 1 $(* $label::COUNT)+;

            fn index(self) -> usize {
                let ($($value,)+) = self;
                let mut index = 0;
                $(index = index * $label::COUNT + $value.index();)+
                index
            }

            fn nth(index: usize) -> Option<Self> {
                let (mut stride, mut rest) = (Self::SIZE, index);
                $(
                    stride /= $label::COUNT;
                    let $value = $label::nth(rest / stride)?;
                    rest %= stride;
                )+
                (rest == 0).then_some(($($value,)+))
            }

            fn texts(self) -> Vec<&'static str> {
                let ($($value,)+) = self;
                vec![$($value.text()),+]
            }
        }
    };
}

label_set!(A a);
label_set!(A a, B b);
label_set!(A a, B b, C c);
label_set!(A a, B b, C c, D d);

/// Which series exist, with the value 0, before anything happened. An alert on a rate needs that: the first
/// increment of a series that did not exist is invisible to `rate`.
pub(super) enum FromZero<L> {
    /// None.
    Never,
    /// Every combination.
    Every,
    /// Those that can occur.
    Those(fn(L) -> bool),
}

/// All series of one metric.
pub(super) struct Family<I: 'static, L> {
    name: &'static str,
    labels: &'static [&'static str],
    dense: OnceLock<Box<[OnceLock<I>]>>,
    sparse: RwLock<BTreeMap<usize, &'static I>>,
    typed: PhantomData<fn(L)>,
}

impl<I: Instrument, L: LabelSet> Family<I, L> {
    pub(super) const fn new(name: &'static str, labels: &'static [&'static str]) -> Self {
        Self { name, labels, dense: OnceLock::new(), sparse: RwLock::new(BTreeMap::new()), typed: PhantomData }
    }

    /// The handle of one series, made on first use. It is lent: cloned handles are counted, by all threads at one place.
    pub(super) fn of(&'static self, labels: L) -> &'static I {
        if L::SIZE > DENSE_SERIES {
            return self.of_sparse(labels);
        }
        let cells = self.dense.get_or_init(|| (0..L::SIZE).map(|_| OnceLock::new()).collect());
        match cells.get(labels.index()) {
            Some(cell) => cell.get_or_init(|| self.register(labels)),
            None => self.of_sparse(labels),
        }
    }

    fn of_sparse(&self, labels: L) -> &'static I {
        let index = labels.index();
        if let Some(handle) = self.sparse.read().unwrap_or_else(PoisonError::into_inner).get(&index) {
            return handle;
        }
        let mut handles = self.sparse.write().unwrap_or_else(PoisonError::into_inner);
        // Series are bounded, and stay until the process ends.
        handles.entry(index).or_insert_with(|| Box::leak(Box::new(self.register(labels))))
    }

    fn register(&self, labels: L) -> I {
        let pairs = self.labels.iter().zip(labels.texts());
        let pairs: Vec<_> = pairs.map(|(name, text)| metrics::Label::from_static_parts(name, text)).collect();
        I::register(&Key::from_parts(self.name, pairs))
    }

    /// Makes the chosen series exist.
    pub(super) fn start(&'static self, from_zero: &FromZero<L>) {
        let chosen: fn(L) -> bool = match from_zero {
            FromZero::Never => return,
            FromZero::Every => |_| true,
            FromZero::Those(chosen) => *chosen,
        };
        for labels in (0..L::SIZE).filter_map(L::nth).filter(|labels| chosen(*labels)) {
            let _made = self.of(labels);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::labels::{Operation, OperationOutcome, ProviderLabel, StatusLabel};

    #[test]
    fn every_combination_has_its_own_position() {
        type Set = (Operation, OperationOutcome, ProviderLabel);
        for at in 0..Set::SIZE {
            assert_eq!(Set::nth(at).map(LabelSet::index), Some(at));
        }
        assert!(Set::nth(Set::SIZE).is_none());
        assert_eq!(
            (Operation::Confirm, OperationOutcome::Unknown, ProviderLabel::Toss).texts(),
            ["confirm", "unknown", "toss"]
        );
        assert_eq!(<(ProviderLabel, StatusLabel)>::SIZE, 3 * 502);
    }
}
