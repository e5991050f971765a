//! Commands by their stored names: what is registered, what is kept, and what an app does about it.

use es_core::command::{NamedCommand, SendError};
use es_core::memory::MemoryBackend;
use es_core::testing::conformance::domain::{Account, AccountError, AccountEvent, Deposit, deposited};
use es_core::{App, Command, ErrorKind, Failure, Handle, Target};
use serde::{Deserialize, Serialize};
use serde_json::json;

macro_rules! commands { ($($command:ident($field:ident: $type:ty) = $name:literal;)+) => { $(
    /// A command in another crate than its aggregate.
    #[derive(Clone, Debug, Serialize, Deserialize)]
    struct $command {
        $field: $type,
    }

    impl Command for $command {
        const NAME: &'static str = $name;
        type Aggregate = Account;
    }

    impl Handle<$command> for Account {
        const TARGET: Target = Target::Either;
        type Env<'e> = ();
        async fn handle(&self, _: $command, (): ()) -> Result<Vec<AccountEvent>, Failure<AccountError>> {
            Ok(vec![deposited(1)])
        }
    }
)+ } }

commands! {
    Tip(amount: f64) = "tip";
    Huge(amount: u128) = "huge";
    OtherDeposit(amount: i64) = "deposit";
}

#[tokio::test]
async fn a_command_of_another_crate_is_registered_on_its_own() {
    let app = App::on(MemoryBackend::new()).command::<Tip>().start().await.unwrap();
    let tip = NamedCommand::of(&"a".to_owned(), &Tip { amount: 0.5 }).unwrap();
    let done = app.sender().send_named(tip).await.unwrap();
    assert_eq!((done.position.0, done.events), (1, 1));
    let text = app.sender().send_named(NamedCommand::new("account", "a", "open", json!({}))).await;
    let text = text.unwrap_err().to_string();
    assert_eq!(text, r#"no command "open" of aggregate "account" is registered: its commands are tip"#);
}

#[tokio::test]
async fn nothing_registered_is_said_so_and_costs_no_send_by_type() {
    let app = App::on(MemoryBackend::new()).start().await.unwrap();
    app.sender().send(&"a".to_owned(), Tip { amount: 0.5 }).await.unwrap();
    let error =
        app.sender().send_named(NamedCommand::new("account", "a", "tip", json!({}))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misuse);
    assert!(error.to_string().ends_with("no command is registered"), "{error}");
}

#[tokio::test]
async fn two_commands_under_one_name_do_not_start() {
    let wiring = || App::on(MemoryBackend::new()).command::<Deposit>();
    wiring().command::<Deposit>().start().await.unwrap();
    let error = wiring().command::<OtherDeposit>().start().await.unwrap_err();
    let [line] = &error.0[..] else { panic!("{error}") };
    assert!(line.contains(r#"two commands of account are stored as "deposit""#), "{line}");
    assert!(line.contains("domain::Deposit") && line.contains("sending::OtherDeposit"), "{line}");
}

/// What is kept is read by later versions.
#[test]
fn the_stored_form_of_a_command_is_pinned() {
    let command = NamedCommand::of(&"a".to_owned(), &Deposit { amount: 5 }).unwrap();
    let stored = r#"{"aggregate":"account","id":"a","name":"deposit","payload":{"amount":5}}"#;
    assert_eq!(serde_json::to_string(&command).unwrap(), stored);
    assert_eq!(serde_json::from_str::<NamedCommand>(stored).unwrap(), command);
}

#[test]
fn what_json_cannot_hold_is_not_kept_as_something_else() {
    for unwritable in [
        NamedCommand::of(&"a".to_owned(), &Tip { amount: f64::NAN }),
        NamedCommand::of(&"a".to_owned(), &Huge { amount: u128::MAX }),
    ] {
        let error = unwritable.unwrap_err();
        assert!(matches!(error, SendError::Unwritable { .. }), "{error}");
        assert_eq!(error.kind(), ErrorKind::Misuse);
    }
}
