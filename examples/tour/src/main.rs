//! One short program for each thing a newcomer looks for: `cargo run -p tour -- view`.
#![expect(unreachable_pub, reason = "topics are written as the modules of a library would be")]

mod topics;

use clap::Parser;
use clap::builder::PossibleValuesParser;

#[derive(Debug, Parser)]
#[command(version, about)]
struct Args {
    /// What to show; without one, the list of them
    #[arg(value_parser = PossibleValuesParser::new(topics::ALL.iter().map(|topic| topic.name)))]
    topic: Option<String>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let asked = Args::parse().topic;
    for topic in topics::ALL {
        match &asked {
            None => say(format!("{:>16}  {}", topic.name, topic.what)),
            Some(name) if name == topic.name => (topic.run)().await?,
            Some(_) => {}
        }
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "this is where a person reads what was shown")]
fn say(line: impl std::fmt::Display) {
    println!("{line}");
}
