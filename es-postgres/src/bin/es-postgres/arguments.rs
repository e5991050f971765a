//! What can be asked for.

use clap::{Args, Parser, Subcommand};

/// Operates an event store on PostgreSQL.
///
/// Data goes to the standard output, words to the standard error. With `--json`, all of it is one line of JSON on the standard
/// output.
#[derive(Debug, Parser)]
#[command(
    name = "es-postgres",
    version,
    max_term_width = 100,
    after_help = "Exit codes: 0 all is well; 1 the answer is no: a violation, a problem, a migration that has not run; \
                  2 it could not be done."
)]
pub(crate) struct Arguments {
    /// Where the database is: postgres://user:password@host:port/database
    #[arg(long, global = true, env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub(crate) database: Option<String>,
    /// The schema of the store
    #[arg(long, global = true, default_value = "es", value_name = "NAME")]
    pub(crate) schema: String,
    /// Answer in JSON: an object with `good`, what was asked for, and `words`; or with `error` and its `kind`
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Bring the schema up to date, in one transaction
    Migrate {
        /// Print the SQL of all steps, for another tool, and connect to nothing
        #[arg(long, conflicts_with = "dry_run")]
        print: bool,
        /// List the steps that have not run; exit with 1 if there are any
        #[arg(long)]
        dry_run: bool,
    },
    /// Print the script that makes the roles of owner, writer and reader
    ///
    /// A superuser runs it before the first migration and after each one; it can be run at any time.
    Roles {
        /// Print it; nothing else is done with it
        #[arg(long, required = true)]
        print: bool,
    },
    /// List what connecting checks: the server, its settings, the schema, the account
    Check,
    /// Prove the promises of the store, on everything that is stored
    ///
    /// Reads the whole log, in one snapshot. Prints a line for each violation.
    Verify {
        /// Only what was appended behind this position
        #[arg(long, value_name = "POSITION", default_value_t = 0)]
        after: u64,
    },
    /// Make the log a table of partitions; again, to set the size of further ones
    ///
    /// Appends and reads go on, and stand still for a moment at the end. A few dozen large partitions are better than
    /// many small ones: a read of a stream looks into each.
    Partition {
        /// Positions of each partition
        #[arg(long, value_name = "POSITIONS")]
        size: u64,
    },
    /// Take whole partitions out of the log; print the names of their tables
    ///
    /// The tables stay in the schema, to be dumped and dropped. What has left is gone from every read: a stream that
    /// began there loads from a snapshot only, and a projection that is rebuilt begins with what is kept. It is refused
    /// while a processor has still to handle an event of them: one that is behind, or one that has it parked; and while a
    /// stream of them has no snapshot that it could be loaded from.
    Archive {
        /// Partitions up to this position
        #[arg(long, value_name = "POSITION")]
        upto: u64,
        /// List what is in the way; exit with 1 if anything is
        #[arg(long)]
        dry_run: bool,
        /// Also streams that could not be loaded any more
        #[arg(long)]
        unloadable: bool,
    },
    /// Take an archived table into the log again: the last one that has left
    Attach {
        /// Its name, as `archive` has printed it
        #[arg(long, value_name = "TABLE")]
        table: String,
    },
    /// Replace the payload of one event, and forget the snapshot of its stream
    ///
    /// The new payload is read from the standard input, byte for byte. It must be one that the event type can read.
    /// Rows of projections and archives elsewhere are not touched. Running programs forget what they keep in memory. It is refused where
    /// its stream could then not be loaded, or where a processor has the event parked.
    Redact {
        /// The stream
        #[arg(long, value_name = "NAME")]
        stream: String,
        /// The version of the event in its stream
        #[arg(long, value_name = "NUMBER")]
        version: u64,
        /// The new payload, instead of the standard input
        #[arg(long, value_name = "TEXT")]
        data: Option<String>,
        /// Say why it is refused; exit with 1 if it is. Nothing is read or changed
        #[arg(long)]
        dry_run: bool,
        /// Also where it is needed as it is
        #[arg(long)]
        needed: bool,
    },
    /// Forget outcomes of idempotency keys and fences of attempts that are older than some days
    ///
    /// Keys of that age are refused from then on. How old a key is, the last UUID of version 7 in it says; others stay.
    Forget {
        /// How many days are remembered, one at least
        #[arg(long, value_name = "DAYS")]
        days: u32,
    },
    /// Say that the store was restored or cloned; print its new generation
    ///
    /// Run it after a restore, before programs write. Programs and readers that remember positions find out that what they
    /// know may be gone.
    Adopt {
        /// It was cloned from a store that goes on: it becomes a store of its own. Stop all programs on it before
        #[arg(long)]
        cloned: bool,
    },
    /// Show how large the store is, and how far its processors are
    Stats,
    /// Show the builds of a processor, and whether it is paused
    Builds {
        /// Its stored name: `balance/1` for a projection, `mails` for a reactor
        processor: String,
    },
    /// List the parked sequences of a processor
    Parked {
        /// Its stored name
        processor: String,
        /// Those behind this key
        #[arg(long, value_name = "KEY")]
        after: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 100, value_name = "NUMBER")]
        limit: usize,
    },
    /// Have parked sequences handled again, and wait for that; exit with 1 if one has failed again
    ///
    /// A node that runs the processor does it. If none has done it in time, the request stands.
    Retry {
        #[command(flatten)]
        which: Which,
    },
    /// Leave parked sequences out for good, and wait for that
    ///
    /// It cannot be undone: look at them first, with `--dry-run`.
    Discard {
        #[command(flatten)]
        which: Which,
        /// Why: it is kept with what is left out
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Pause a processor on every node, until it is resumed
    Pause {
        /// Its stored name
        processor: String,
    },
    /// Let a processor continue, on every node; what is halted tries its event again
    Resume {
        /// Its stored name
        processor: String,
    },
    /// Begin to rebuild a projection beside the one that queries read, or go on with it
    ///
    /// The nodes that run it build it. Nothing changes for queries before `switch`. Tables of a projection are made by its
    /// code: of such a one the program begins it, and the other verbs do the rest.
    Rebuild {
        /// Its stored name
        processor: String,
        /// Treat events that fail as the projection says, and do not halt at them
        #[arg(long)]
        lenient: bool,
        /// Handle also what was skipped or discarded before
        #[arg(long)]
        repeat_skips: bool,
        /// Say what would begin, or why nothing can; exit with 1 then. Nothing is changed
        #[arg(long)]
        dry_run: bool,
        /// How long to follow it, in seconds
        #[arg(long, default_value_t = 0, value_name = "SECONDS")]
        wait: u64,
    },
    /// Show how far the rebuild of a projection is; exit with 1 if it is not as far as the log
    Progress {
        /// Its stored name
        processor: String,
        /// How long to follow it, in seconds; less if it is halted
        #[arg(long, default_value_t = 0, value_name = "SECONDS")]
        wait: u64,
    },
    /// Compare the rows of a rebuild with those that queries read
    Report {
        /// Its stored name
        processor: String,
        /// How many rows of each table are shown
        #[arg(long, default_value_t = 10, value_name = "NUMBER")]
        samples: usize,
    },
    /// Have queries read the rebuild of a projection from now on
    ///
    /// What they read before is kept up to date: `roll-back` goes back to it, `drop-previous` ends that.
    Switch {
        #[command(flatten)]
        of: Reversible,
    },
    /// Have queries read again what they read before the switch
    RollBack {
        #[command(flatten)]
        of: Reversible,
    },
    /// Give up the rebuild of a projection: what was built goes
    Abort {
        #[command(flatten)]
        of: Final,
    },
    /// Drop what queries read before the switch: there is no way back then
    DropPrevious {
        #[command(flatten)]
        of: Final,
    },
    /// Rebuild the rows of some keys of a view, and wait for that
    ///
    /// A node that runs the view does it. If none has done it in time, the request stands.
    RebuildKeys {
        /// Its stored name
        processor: String,
        /// The keys
        #[arg(required = true)]
        keys: Vec<String>,
        /// List those of them that are parked and so in the way; exit with 1 if any is. Nothing is changed
        #[arg(long)]
        dry_run: bool,
        /// How long to wait, in seconds
        #[arg(long, default_value_t = 60, value_name = "SECONDS")]
        wait: u64,
    },
}

/// A step that there is a way back from.
#[derive(Debug, Args)]
pub(crate) struct Reversible {
    /// The stored name of the projection
    pub(crate) processor: String,
    /// Say which generation it is about, or why it is refused; exit with 1 then. Nothing is changed
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// A step that there is no way back from.
#[derive(Debug, Args)]
pub(crate) struct Final {
    /// The stored name of the projection
    pub(crate) processor: String,
    /// Say which generation would go, or why none can; exit with 1 then. Nothing is changed
    #[arg(long, conflicts_with = "yes")]
    pub(crate) dry_run: bool,
    /// Do it: it cannot be undone
    #[arg(long, required_unless_present = "dry_run")]
    pub(crate) yes: bool,
}

/// Which parked sequences.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// The stored name of the processor
    pub(crate) processor: String,
    /// The key of one sequence
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub(crate) key: Option<String>,
    /// All sequences, or all that match
    #[arg(long)]
    pub(crate) all: bool,
    /// Of all, those that failed at an event of this type
    #[arg(long, requires = "all", value_name = "NAME")]
    pub(crate) event: Option<String>,
    /// Of all, those whose error has this text in it
    #[arg(long, requires = "all", value_name = "TEXT")]
    pub(crate) error: Option<String>,
    /// List them, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// How long to wait, in seconds
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub(crate) wait: u64,
}
