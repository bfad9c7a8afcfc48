//! The words of what becomes of spans and traces.

use crate::domain::vocabulary;

vocabulary! {
    /// What became of a span.
    pub enum SpanResult {
        /// A receiver has it.
        Exported => "exported",
        /// Its trace was not worth keeping.
        SampledOut => "sampled_out",
        /// There was no room for it.
        QueueFull => "queue_full",
        /// No receiver took it.
        ExportFailed => "export_failed",
    }
}

vocabulary! {
    /// Why a trace was kept, or that it was not.
    pub enum TraceDecision {
        /// Something in it failed or is not certain.
        Error => "error",
        /// It took longer than its kind should.
        Slow => "slow",
        /// A bucket of a histogram wanted an example.
        Exemplar => "exemplar",
        /// One of the many that went well, by chance.
        Sample => "sample",
        /// Not kept: one like many.
        Dropped => "dropped",
        /// Given up before its end: there was no room to wait for it.
        Overflow => "overflow",
    }
}
