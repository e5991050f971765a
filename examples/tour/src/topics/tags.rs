//! A tag is `name:value` beside an event; filters and decisions find the event by it, in whatever stream it is.

use es_core::event::Tag;
use es_core::memory::MemoryBackend;
use es_core::prelude::*;
use es_core::store::{EventFilter, read_all};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pupil {
    pub id: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Enrolled {
    pub course: u64,
    pub pupil: Pupil,
}

#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "course")]
pub enum CourseEvent {
    /// `course:7`, from the field of that name, and `student:ada`, from a field of a field.
    #[event(tags(course, student = pupil.id))]
    Enrolled(Enrolled),
}

#[derive(Clone, Debug, PartialEq, thiserror::Error, Serialize, Deserialize)]
pub enum CourseError {
    #[error("the course is full")]
    Full,
    #[error("the student has enough courses")]
    Busy,
}

#[derive(Aggregate, Clone, Debug, Default)]
#[aggregate(id = u64, event = CourseEvent, error = CourseError)]
pub struct Course;

impl Apply for Course {
    fn apply(&mut self, _: &CourseEvent) {}
}

#[derive(Clone, Serialize, Deserialize)]
struct Enrol(Enrolled);

#[commands]
impl Course {
    #[create_if_missing]
    fn enrol(&self, cmd: Enrol) -> Result<Enrolled, CourseError> {
        Ok(cmd.0)
    }
}

pub async fn run() -> anyhow::Result<()> {
    let app = App::on(MemoryBackend::new()).start().await?;
    for (course, student) in [(7, "ada"), (7, "bob"), (8, "ada")] {
        app.send(&course, Enrol(Enrolled { course, pupil: Pupil { id: student.to_owned() } })).await?;
    }

    // `tagged` narrows: these types and this tag. `or` widens.
    let of_ada = EventFilter::of::<Enrolled>().tagged(&Tag::new("student", "ada")?);
    let found = read_all(app.store(), &of_ada, Position(0)).await?.events;
    let streams: Vec<&str> = found.iter().map(|event| event.stream.as_str()).collect();
    assert_eq!(streams, ["course-7", "course-8"]);
    let first = found[0].payload::<Enrolled>()?;
    assert_eq!(first.map(|enrolled| enrolled.pupil.id).as_deref(), Some("ada"));

    let either = of_ada.or(EventFilter::all().tagged(&Tag::new("course", 7)?));
    assert_eq!(read_all(app.store(), &either, Position(0)).await?.events.len(), 3);
    crate::say(format!("ada is in {streams:?}"));
    Ok(())
}
