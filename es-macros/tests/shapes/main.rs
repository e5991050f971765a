//! Every key and every shape of each macro, in use. What does not compile is in `ui`.
#![expect(
    dead_code,
    dropping_copy_types,
    private_interfaces,
    unreachable_pub,
    unused_qualifications,
    clippy::assertions_on_constants,
    clippy::use_self,
    reason = "everything that users may write is shown, and not all of it is used"
)]

#[path = "../ui/bank.rs"]
mod bank;
#[path = "../ui/order.rs"]
mod order;
#[path = "../ui/pet.rs"]
mod pet;

mod aggregate;
mod aggregate_id;
mod commands;
mod event;
mod no_commands_yet;
mod process;
mod projection;
mod publishes;
mod queries;
mod reactor;
mod reactor_shapes;
mod saga;
mod step;
mod tcc;
mod three_hundred_variants;
mod view;
mod view_deletes;
