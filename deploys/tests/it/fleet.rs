//! Processes of the three programs on one store, their load, and their ends.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use deploys::{Order, Report};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// How long one step may take. It only ends a test that fails.
const LIMIT: Duration = Duration::from_secs(180);
/// Commands of a process in a row.
const COMMANDS: usize = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Program {
    Old,
    New,
    Newest,
}

impl Program {
    fn path(self) -> &'static str {
        match self {
            Self::Old => env!("CARGO_BIN_EXE_old"),
            Self::New => env!("CARGO_BIN_EXE_new"),
            Self::Newest => env!("CARGO_BIN_EXE_newest"),
        }
    }
}

/// What a process does beside commands and queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Works,
    LooksOn,
}

/// One process.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) program: Program,
    pub(crate) role: Role,
    /// How many commands it has done.
    pub(crate) done: usize,
    child: Child,
    orders: ChildStdin,
    started: bool,
    pub(crate) ready: bool,
    /// Why it is not, if it has said so.
    late: String,
    /// Orders that it has not answered yet.
    open: usize,
    loading: bool,
    /// Of the last check: the rows of the projection that had the fewest, and how many were left out.
    checked: Option<(usize, usize)>,
}

/// The processes on one store.
pub(crate) struct Fleet {
    store: String,
    folder: PathBuf,
    keep_versions: Duration,
    pub(crate) rng: StdRng,
    pub(crate) nodes: Vec<Node>,
    reports: Receiver<(String, Option<Report>)>,
    give: Sender<(String, Option<Report>)>,
    hired: usize,
    load: bool,
    /// How many commands may still be sent: a projection of SQL that is built may be slower than the load.
    budget: usize,
    /// Whether events may be written that `Old` cannot read; then it is not ready for all of them, and not checked.
    pub(crate) unreadable_for_old: bool,
    pub(crate) done: usize,
    pub(crate) kills: usize,
    pub(crate) checks: usize,
}

impl Fleet {
    pub(crate) fn new(store: String, folder: PathBuf, keep_versions: Duration, seed: u64) -> Self {
        let (give, reports) = mpsc::channel();
        Self {
            store,
            folder,
            keep_versions,
            rng: StdRng::seed_from_u64(seed),
            nodes: Vec::new(),
            reports,
            give,
            hired: 0,
            load: true,
            budget: usize::MAX,
            unreadable_for_old: false,
            done: 0,
            kills: 0,
            checks: 0,
        }
    }

    /// Where the reactors write down what they have seen.
    pub(crate) fn effects(&self) -> PathBuf {
        self.folder.join("effects")
    }

    pub(crate) fn start(&mut self, program: Program, role: Role) {
        self.hired += 1;
        let name = format!("{program:?}{}", self.hired).to_lowercase();
        let kept = self.keep_versions.as_millis().to_string();
        let mut command = Command::new(program.path());
        command.arg(&self.store).arg(&name).arg(self.effects()).arg(kept);
        command.arg(if role == Role::Works { "works" } else { "looks-on" });
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (orders, said) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (give, who) = (self.give.clone(), name.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(said).lines().map_while(Result::ok) {
                let report = serde_json::from_str(&line).unwrap_or(Report::Failed(line));
                drop(give.send((who.clone(), Some(report))));
            }
            drop(give.send((who, None)));
        });
        let (started, ready, loading, checked, open, done) = (false, false, false, None, 0, 0);
        self.nodes.push(Node {
            name,
            program,
            role,
            done,
            child,
            orders,
            started,
            ready,
            late: String::new(),
            open,
            loading,
            checked,
        });
    }

    pub(crate) fn of(&self, program: Program, role: Role) -> Vec<String> {
        let of_it = |node: &&Node| node.program == program && node.role == role;
        self.nodes.iter().filter(of_it).map(|node| node.name.clone()).collect()
    }

    fn node(&mut self, name: &str) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.name == name).unwrap()
    }

    fn order(&mut self, name: &str, order: Order) {
        let node = self.node(name);
        node.open += usize::from(order != Order::Stop);
        let line = serde_json::to_string(&order).unwrap();
        writeln!(node.orders, "{line}").unwrap();
    }

    /// Gives the next commands to a process that has none.
    fn load(&mut self, name: &str) {
        let unreadable_before = self.unreadable_for_old;
        if self.load && self.budget > 0 && !std::mem::replace(&mut self.node(name).loading, true) {
            self.budget = self.budget.saturating_sub(COMMANDS);
            self.order(name, Order::Send { commands: COMMANDS, unreadable_before });
        }
    }

    /// Listens until this is so.
    pub(crate) fn until(&mut self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        let end = Instant::now() + LIMIT;
        while !is_so(self) {
            let (name, report) = self.next(what, end);
            self.hear(&name, report);
        }
    }

    /// What a process says, or that it has ended.
    fn next(&self, what: &str, end: Instant) -> (String, Option<Report>) {
        let left = end.saturating_duration_since(Instant::now());
        let said = self.reports.recv_timeout(left);
        said.unwrap_or_else(|_| panic!("not within {LIMIT:?}: {what}; {:?}", self.state()))
    }

    fn hear(&mut self, name: &str, report: Option<Report>) {
        if let Some(Report::Failed(why)) = report {
            panic!("{name} failed: {why}; {:?}", self.state());
        }
        let checked = |node: &Node, fleet: &Self| node.program != Program::Old || !fleet.unreadable_for_old;
        // What was killed may have said something before.
        let Some(at) = self.nodes.iter().position(|node| node.name == name) else { return };
        match report.unwrap_or_else(|| panic!("{name} ended by itself; {:?}", self.state())) {
            Report::Started => {
                self.nodes[at].started = true;
                self.load(name);
            }
            Report::Ready => {
                self.nodes[at].ready = true;
                if checked(&self.nodes[at], self) {
                    self.order(name, Order::Check);
                }
            }
            Report::NotReady(why) => self.nodes[at].late = why,
            Report::Sent { done, unreadable, .. } => {
                self.done += done;
                self.nodes[at].done += done;
                assert!(unreadable == 0 || self.nodes[at].program != Program::Newest, "{name} reads all");
                (self.nodes[at].open, self.nodes[at].loading) = (self.nodes[at].open - 1, false);
                self.load(name);
            }
            Report::Checked { rows, left_out } => {
                self.checks += 1;
                let least = rows.into_values().min().unwrap();
                (self.nodes[at].open, self.nodes[at].checked) =
                    (self.nodes[at].open - 1, Some((least, left_out)));
            }
            Report::Parked(parked) => {
                assert!(parked.is_empty(), "{name}: {parked:?}");
                self.nodes[at].open -= 1;
            }
            Report::TookBack => self.nodes[at].open -= 1,
            Report::Failed(_) => unreachable!("it was told above"),
        }
    }

    fn state(&self) -> Vec<String> {
        let said = |node: &Node| {
            let Node { name, started, ready, late, open, .. } = node;
            format!("{name}: started {started}, ready {ready}, {open} open {late}")
        };
        self.nodes.iter().map(said).collect()
    }

    /// Waits until all of these are ready, and have been found to equal a plain fold.
    pub(crate) fn ready(&mut self, program: Program) {
        self.budget = 400;
        self.until(&format!("{program:?} is ready and checked"), |fleet| {
            let mut nodes = fleet.nodes.iter().filter(|node| node.program == program);
            nodes.all(|node| node.ready && node.checked.is_some())
        });
        self.budget = usize::MAX;
        let started = self.nodes.iter().filter(|node| node.started).map(|node| node.name.clone());
        started.collect::<Vec<_>>().iter().for_each(|name| self.load(name));
    }

    /// Checks these now, and that nothing is parked on any.
    pub(crate) fn check(&mut self, program: Program) {
        self.ready(program);
        for name in [self.of(program, Role::Works), self.of(program, Role::LooksOn)].concat() {
            self.node(&name).checked = None;
            self.order(&name, Order::Check);
        }
        self.nothing_is_parked();
        self.ready(program);
    }

    fn nothing_is_parked(&mut self) {
        self.until("all have started", |fleet| fleet.nodes.iter().all(|node| node.started));
        let names: Vec<String> = self.nodes.iter().map(|node| node.name.clone()).collect();
        names.iter().for_each(|name| self.order(name, Order::Parked));
        self.answered();
    }

    /// Waits until nothing is left to do but commands.
    fn answered(&mut self) {
        self.until("all have answered", |fleet| {
            fleet.nodes.iter().all(|node| node.open == usize::from(node.loading))
        });
    }

    /// Kills one of them at a random point, without a goodbye, and starts its program again.
    pub(crate) fn strike(&mut self) {
        let goal = self.done + [0, self.rng.random_range(0..150)][self.rng.random_range(0..2)];
        self.until("some commands are done", |fleet| fleet.done >= goal);
        // The last one may not even have started.
        let victim = self.rng.random_range(0..self.nodes.len() + 1).min(self.nodes.len() - 1);
        let (program, role) = self.kill(victim);
        self.start(program, role);
    }

    fn kill(&mut self, at: usize) -> (Program, Role) {
        let mut victim = self.nodes.remove(at);
        victim.child.kill().unwrap();
        victim.child.wait().unwrap();
        self.kills += 1;
        (victim.program, victim.role)
    }

    /// Kills those of the one program that work, for so long that another one works on what is its.
    pub(crate) fn absence(&mut self, of: Program, others: Program) {
        let works = |node: &Node| node.program == of && node.role == Role::Works;
        while let Some(at) = self.nodes.iter().position(works) {
            self.kill(at);
        }
        self.of(others, Role::Works).iter().for_each(|name| self.order(name, Order::TakeBack));
        self.answered();
        self.commands(of);
        self.start(of, Role::Works);
    }

    /// Waits until those of a program that look on have done some more commands.
    pub(crate) fn commands(&mut self, of: Program) {
        for name in self.of(of, Role::LooksOn) {
            let goal = self.node(&name).done + 4 * COMMANDS;
            self.until("it has done its commands", |fleet| {
                fleet.nodes.iter().any(|node| node.name == name && node.done >= goal)
            });
        }
    }

    /// Ends one as a deploy does.
    pub(crate) fn stop(&mut self, name: &str) {
        self.until("it has started", |fleet| {
            fleet.nodes.iter().any(|node| node.name == name && node.started)
        });
        self.order(name, Order::Stop);
        let at = self.nodes.iter().position(|node| node.name == name).unwrap();
        let mut node = self.nodes.remove(at);
        let (mut ended, mut others, end) = (false, Vec::new(), Instant::now() + LIMIT);
        while !ended {
            let (who, report) = self.next("it stops", end);
            ended = who == name && report.is_none();
            if who == name {
                if let Some(Report::Sent { done, .. }) = report {
                    self.done += done;
                }
                assert!(!matches!(report, Some(Report::Failed(_))), "{name}: {report:?}");
            } else {
                others.push((who, report));
            }
        }
        assert!(node.child.wait().unwrap().success(), "{name} ends in peace");
        others.into_iter().for_each(|(who, report)| self.hear(&who, report));
    }

    /// No more commands: whatever is compared then is the whole.
    pub(crate) fn quiet(&mut self) {
        self.load = false;
        self.until("no command is on its way", |fleet| fleet.nodes.iter().all(|node| !node.loading));
    }

    /// Ends all, whose last check has left nothing out.
    pub(crate) fn end(&mut self) {
        for name in self.nodes.iter().map(|node| node.name.clone()).collect::<Vec<_>>() {
            let checked = self.node(&name).checked;
            assert!(matches!(checked, Some((1.., 0))), "{name}: {checked:?}");
            self.stop(&name);
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            // They end with their input as well; a test that has failed does not wait for that.
            drop(node.child.kill());
            drop(node.child.wait());
        }
    }
}
