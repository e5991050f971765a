use es_core::codec::{Codec, Json};
use es_core::event::{EventType, Tag};
use es_core::{BoxError, Event, Payload};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Pupil {
    id: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Enrolled {
    course: u32,
    pupil: Pupil,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Left(u32);

struct Named;

impl Codec for Named {
    const NAME: &'static str = "named";

    fn encode<T: Serialize>(value: &T) -> Result<bytes::Bytes, BoxError> {
        Json::encode(value)
    }

    fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BoxError> {
        Json::decode(bytes)
    }
}

#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "course", codec = Named)]
enum CourseEvent {
    #[event(name = "pupil:enrolled-2", version = 3, tags(course, pupil = pupil.id))]
    Enrolled(Enrolled),
    #[event(was("course.gone", "course.quit"), tags(course = 0))]
    Left(Left),
}

/// A prefix is not needed when every variant has its name, and one variant is enough.
#[derive(Event, Clone, Debug, PartialEq)]
enum Single {
    #[event(name = "single")]
    Only(Only),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Only {}

#[test]
fn it_is_what_it_says() {
    let types =
        [EventType { name: "pupil:enrolled-2", schema: 3 }, EventType { name: "course.left", schema: 1 }];
    assert_eq!(CourseEvent::TYPES, types);
    assert_eq!(Left::SOURCES, ["course.left", "course.gone", "course.quit"]);

    let enrolled = CourseEvent::from(Enrolled { course: 7, pupil: Pupil { id: 9 } });
    let stored = enrolled.encode().unwrap();
    assert_eq!((&*stored.name, stored.schema, &*stored.codec), ("pupil:enrolled-2", 3, "named"));
    assert_eq!(stored.tags, [Tag::new("course", 7).unwrap(), Tag::new("pupil", 9).unwrap()]);
    assert_eq!(CourseEvent::from(Left(7)).encode().unwrap().tags, [Tag::new("course", 7).unwrap()]);

    assert_eq!(Left::from_event(enrolled.clone()), Err(enrolled));
    assert_eq!(Only::from_event(Single::Only(Only {})), Ok(Only {}));
}
