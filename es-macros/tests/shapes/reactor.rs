use crate::bank::Opened;
use es_core::prelude::*;
use es_core::projection::Partition;

struct Welcome;

#[reactor(name = "welcome", was = "greeting", on_failure = skip, partition = stream, in_flight = 32, crate = ::es_core)]
impl Welcome {
    fn opened(&self, _: &Opened) {}
}

struct Plain;

#[reactor(name = "plain", partition = whole)]
impl Plain {
    fn opened(&self, _: &Opened) {}
}

#[test]
fn it_is_what_it_says() {
    assert_eq!(
        (Welcome::PARTITION, Welcome::IN_FLIGHT, Welcome::WAS),
        (Partition::Stream, 32, Some("greeting"))
    );
    assert_eq!((Plain::PARTITION, Plain::WAS), (Partition::Whole, None));
}
