//! The rules for Prometheus.

use std::time::Duration;

use super::rules::{Limit, Measure, RULES, Rule};

impl Measure {
    /// What Prometheus calculates for it, an entry for each kind of sagas.
    fn promql(self) -> &'static str {
        match self {
            Self::SuccessRate => {
                "sum by (kind) (increase(es_saga_ended_total{outcome=\"completed\"}[5m])) \
                 / sum by (kind) (increase(es_saga_ended_total[5m]))"
            }
            Self::MeanSeconds => {
                "sum by (kind) (increase(es_saga_seconds_sum[5m])) / sum by (kind) (increase(es_saga_seconds_count[5m]))"
            }
            Self::Parked => "sum by (kind) (es_saga_parked)",
            Self::Damaged => "sum by (kind) (es_saga_damaged)",
            Self::Unattended => "sum by (kind) (es_saga_unattended)",
            Self::Unforgotten => "sum by (kind) (es_saga_unforgotten)",
            Self::OldestSeconds => "max by (kind) (es_saga_oldest_seconds)",
            Self::Fenced => "sum by (kind) (increase(es_saga_fenced_total[5m]))",
            Self::SilentSeconds => {
                "time() - max by (kind) (last_over_time(es_saga_looked_timestamp_seconds[1d]))"
            }
            Self::LockWaitSeconds => "max(es_saga_lock_oldest_wait_seconds)",
            Self::ParkedSequences => "max by (processor) (es_processor_parked{role=\"current\"})",
            Self::StandsBehind => {
                "max by (processor, generation) (es_processor_lag) \
                 unless max by (processor, generation) (delta(es_processor_position[5m])) > 0"
            }
            Self::InDoubtSeconds => "max by (participant) (es_two_phase_in_doubt_seconds)",
            Self::UnfinishedBranches => "max by (participant) (es_two_phase_unfinished)",
            Self::ParkedBranches => "max by (participant) (es_two_phase_parked)",
            Self::TornTransactions => "max(es_two_phase_torn)",
            Self::Unreconciled => {
                "(max by (reconciliation, class) (es_reconcile_differences) \
                 or max by (reconciliation) (es_reconcile_failing))"
            }
            // Each node counts all of them.
            Self::WaitingTransactions => "max by (pattern, kind) (es_transactions_waiting)",
            Self::UnaskedSeconds => {
                "time() - max by (participant) (last_over_time(es_two_phase_looked_timestamp_seconds[1d]))"
            }
            // It is 0 once a node has signed off.
            Self::NodeSilentSeconds => "time() - max by (node) (es_node_looked_timestamp_seconds > 0)",
        }
    }

    /// What it is of, by its labels.
    fn of(self) -> &'static str {
        match self {
            Self::ParkedSequences => "{{ $labels.processor }}",
            Self::StandsBehind => "{{ $labels.processor }}~{{ $labels.generation }}",
            Self::NodeSilentSeconds => "{{ $labels.node }}",
            Self::InDoubtSeconds | Self::UnfinishedBranches | Self::ParkedBranches | Self::UnaskedSeconds => {
                "{{ $labels.participant }}"
            }
            Self::TornTransactions => "Two-phase commit",
            Self::LockWaitSeconds => "Locks of sagas",
            Self::Unreconciled => "{{ $labels.reconciliation }}, {{ $labels.class }}",
            Self::WaitingTransactions => "{{ $labels.pattern }} {{ $labels.kind }}",
            _ => "{{ $labels.kind }}",
        }
    }
}

impl Rule {
    /// The rule as an expression of Prometheus: it has a value where there is an alarm.
    #[must_use]
    pub fn expr(&self) -> String {
        let measure = self.measure.promql();
        match self.limit {
            Limit::Above(limit) if self.measure == Measure::StandsBehind => format!("({measure}) > {limit}"),
            Limit::Above(limit) => format!("{measure} > {limit}"),
            Limit::Below(limit) => format!("{measure} < {limit}"),
            Limit::Deadlines(times) => {
                format!("{measure} > {times} * max by (kind) (es_saga_deadline_seconds)")
            }
        }
    }
}

/// The [`RULES`] as a file of rules for Prometheus.
#[must_use]
pub fn prometheus_rules() -> String {
    let head = "# Written by `sagas::alerts::prometheus_rules()`. The guide says what to do for each: \
                \"Watching sagas\".\ngroups:\n  - name: sagas\n    rules:\n";
    head.to_owned() + &RULES.iter().map(entry).collect::<String>()
}

fn entry(rule: &Rule) -> String {
    let of = format!("{}: {}", rule.measure.of(), rule.summary);
    let lines = [
        format!("      - alert: {}", rule.name),
        format!("        expr: {}", quoted(&rule.expr())),
        format!("        for: {}", minutes(rule.hold)),
        format!("        labels:\n          severity: {}", rule.severity.label()),
        format!("        annotations:\n          summary: {}", quoted(&of)),
        format!("          description: {}\n", quoted(rule.to_do)),
    ];
    lines.join("\n")
}

fn minutes(time: Duration) -> String {
    format!("{}m", time.as_secs() / 60)
}

/// A text in double quotes, as YAML reads it.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
