//! The rules as a node keeps them, by its own numbers: pure.

use std::collections::VecDeque;
use std::time::Duration;

use es_core::Timestamp;

use super::rules::{Limit, Measure, RULES, Rule, WINDOW};

/// The numbers of one definition at one time: what was counted since the start, and what is so.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Sample {
    pub(crate) completed: f64,
    /// All that have ended, and the seconds that they took together.
    pub(crate) ended: f64,
    pub(crate) took: f64,
    pub(crate) fenced: f64,
    pub(crate) parked: f64,
    pub(crate) damaged: f64,
    pub(crate) unattended: f64,
    pub(crate) unforgotten: f64,
    pub(crate) oldest: Option<f64>,
    pub(crate) deadline: Option<f64>,
    pub(crate) silent: Option<f64>,
}

/// What has changed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Change {
    Began { rule: &'static Rule, value: f64 },
    Over { rule: &'static Rule },
}

/// What is known of each rule, in their order.
#[derive(Debug)]
pub(crate) struct Kept {
    /// When, by a steady clock; of the last five minutes, and the last one before.
    samples: VecDeque<(Duration, Sample)>,
    rules: Vec<State>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// Since when it is so, by a steady clock and by the app's.
    since: Option<(Duration, Timestamp)>,
    alarms: bool,
}

impl Kept {
    /// What is counted is counted from this one on.
    pub(crate) fn from(sample: Sample, at: Duration) -> Self {
        Self { samples: VecDeque::from([(at, sample)]), rules: vec![State::default(); RULES.len()] }
    }

    /// Takes in the numbers of now.
    pub(crate) fn take(&mut self, sample: Sample, at: Duration, now: Timestamp) -> Vec<Change> {
        self.samples.push_back((at, sample));
        // One that is as old as the window, or older, is kept: it is counted from there.
        while self.samples.get(1).is_some_and(|(then, _)| at.saturating_sub(*then) >= WINDOW) {
            self.samples.pop_front();
        }
        let mut changes = Vec::new();
        for (n, rule) in RULES.iter().enumerate() {
            let value = self.value(rule.measure).filter(|value| rule.is_broken(*value, &sample));
            changes.extend(self.rules[n].judge(rule, value, at, now));
        }
        changes
    }

    /// The rules that are broken, since when, and what they measure now.
    pub(crate) fn alarms(&self) -> impl Iterator<Item = (&'static Rule, Timestamp)> {
        let since = |state: &State| state.since.filter(|_| state.alarms).map(|(_, since)| since);
        RULES.iter().zip(&self.rules).filter_map(move |(rule, state)| Some((rule, since(state)?)))
    }

    fn value(&self, measure: Measure) -> Option<f64> {
        let ((_, first), (_, last)) = (self.samples.front()?, self.samples.back()?);
        let ended = last.ended - first.ended;
        match measure {
            Measure::SuccessRate => (ended > 0.0).then(|| (last.completed - first.completed) / ended),
            Measure::MeanSeconds => (ended > 0.0).then(|| (last.took - first.took) / ended),
            Measure::Parked => Some(last.parked),
            Measure::Damaged => Some(last.damaged),
            Measure::Unattended => Some(last.unattended),
            Measure::Unforgotten => Some(last.unforgotten),
            Measure::OldestSeconds => last.oldest,
            Measure::Fenced => Some(last.fenced - first.fenced),
            Measure::SilentSeconds => last.silent,
            // Processors and nodes have their own status, and so have recovery, locks and the view over all patterns.
            Measure::ParkedSequences
            | Measure::StandsBehind
            | Measure::NodeSilentSeconds
            | Measure::InDoubtSeconds
            | Measure::UnfinishedBranches
            | Measure::ParkedBranches
            | Measure::TornTransactions
            | Measure::UnaskedSeconds
            | Measure::LockWaitSeconds
            | Measure::WaitingTransactions
            | Measure::Unreconciled => None,
        }
    }
}

impl Rule {
    fn is_broken(&self, value: f64, sample: &Sample) -> bool {
        match self.limit {
            Limit::Above(limit) => value > limit,
            Limit::Below(limit) => value < limit,
            Limit::Deadlines(times) => sample.deadline.is_some_and(|deadline| value > times * deadline),
        }
    }
}

impl State {
    fn judge(
        &mut self,
        rule: &'static Rule,
        broken: Option<f64>,
        at: Duration,
        now: Timestamp,
    ) -> Option<Change> {
        let Some(value) = broken else {
            let was = std::mem::take(self).alarms;
            return was.then_some(Change::Over { rule });
        };
        let (since, _) = *self.since.get_or_insert((at, now));
        let begins = !self.alarms && at.saturating_sub(since) >= rule.hold;
        self.alarms |= begins;
        begins.then_some(Change::Began { rule, value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_secs(15);

    /// What begins (`+`) and is over (`-`), and after how many seconds.
    fn kept(samples: impl IntoIterator<Item = Sample>) -> Vec<String> {
        let mut kept = Kept::from(Sample::default(), Duration::ZERO);
        let mut all = Vec::new();
        for (n, sample) in (1_u32..).zip(samples) {
            for change in kept.take(sample, STEP * n, Timestamp::UNIX_EPOCH) {
                let (sign, rule) = match change {
                    Change::Began { rule, .. } => ('+', rule),
                    Change::Over { rule } => ('-', rule),
                };
                all.push(format!("{sign}{} {}", rule.name, (STEP * n).as_secs()));
            }
        }
        all
    }

    fn of(n: usize, sample: Sample) -> Vec<Sample> {
        vec![sample; n]
    }

    #[test]
    fn what_holds_for_long_enough_is_an_alarm_until_it_is_over() {
        let parked = Sample { parked: 1.0, ..Sample::default() };
        let changes = kept([of(30, parked), of(2, Sample::default())].concat());
        assert_eq!(changes, ["+SagaParked 315", "-SagaParked 465"]);
        // Not if it is over for a moment.
        assert_eq!(kept([of(20, parked), of(1, Sample::default()), of(20, parked)].concat()), [""; 0]);
        let many = Sample { parked: 11.0, ..Sample::default() };
        assert_eq!(kept(of(30, many)), ["+SagaParkedMany 75", "+SagaParked 315"]);
    }

    #[test]
    fn what_is_counted_is_counted_over_five_minutes() {
        let ended =
            |completed: f64, ended: f64| Sample { completed, ended, took: ended, ..Sample::default() };
        // Half of them fail, and then none.
        let (mut samples, mut last) = (Vec::new(), (0.0, 0.0));
        for n in 0..120 {
            last = (last.0 + if n < 40 { 5.0 } else { 10.0 }, last.1 + 10.0);
            samples.push(ended(last.0, last.1));
        }
        let changes = kept(samples);
        assert_eq!(changes[0], "+SagaSuccessRateLow 315");
        assert!(changes.len() == 2 && changes[1].starts_with("-SagaSuccessRateLow"), "{changes:?}");
        // Without runs there is nothing to say.
        assert_eq!(kept(of(60, Sample::default())), [""; 0]);
        let slow = (1..60).map(|n| {
            let n = f64::from(n);
            Sample { completed: n, ended: n, took: 6.0 * n, ..Sample::default() }
        });
        assert_eq!(kept(slow), ["+SagaSlow 315"]);
        let fenced = (1..60).map(|n| Sample { fenced: f64::from(n) * 2.0, ..Sample::default() });
        assert_eq!(kept(fenced), ["+SagaFenced 225"]);
    }

    #[test]
    fn a_deadline_is_that_of_the_definition() {
        let old = |oldest, deadline| Sample { oldest: Some(oldest), deadline, ..Sample::default() };
        assert_eq!(kept(of(40, old(61.0, Some(30.0)))), ["+SagaOld 315"]);
        assert_eq!(kept(of(40, old(59.0, Some(30.0)))), [""; 0]);
        assert_eq!(kept(of(40, old(1e9, None))), [""; 0]);
        let damaged = Sample { damaged: 1.0, silent: Some(61.0), ..Sample::default() };
        assert_eq!(kept(of(40, damaged)), ["+SagaEngineSilent 75", "+SagaDamaged 315"]);
    }
}
