//! What the buyers of a run want: the same in every run.

use jiff::SignedDuration;

use crate::order::{OrderId, Placed};
use crate::payment::{Card, Holder};
use crate::seat::SeatId;

const SEATS_IN_A_ROW: u32 = 40;

/// The order with a number, from 1. Every fifth buyer wants the seat of the buyer before.
pub(crate) fn order(number: u32, hold: SignedDuration) -> Placed {
    let seat = (number - 1) / 5 * 4 + ((number - 1) % 5).min(3);
    let (row, in_row) = (seat / SEATS_IN_A_ROW + 1, seat % SEATS_IN_A_ROW + 1);
    Placed {
        order: OrderId(number),
        seat: SeatId(format!("{row}-{in_row}")),
        price: [90, 70, 50][number as usize % 3],
        card: Card { limit: if number % 8 == 3 { 40 } else { 500 }, holder: holder(number, hold) },
        hold,
    }
}

fn holder(number: u32, hold: SignedDuration) -> Holder {
    match number % 20 {
        6 | 16 => Holder::NeverAnswers,
        2 | 12 => Holder::ApprovesTwice { after: hold / 10 },
        // Shortly before the hold ends: now in time, now too late.
        14 => Holder::ApprovesTwice { after: hold / 20 * 19 },
        _ => Holder::IsNotAsked,
    }
}

/// Whether the order is sent twice, as by a browser that lost the answer.
pub(crate) const fn is_sent_twice(number: u32) -> bool {
    number.is_multiple_of(10)
}
