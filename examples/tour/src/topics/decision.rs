//! A rule over several streams: two students in a course, two courses for a student.
//!
//! No stream knows both, so the boundary is what is read: a dynamic consistency boundary.

use es_core::event::Tag;
use es_core::limits::LimitError;
use es_core::memory::MemoryBackend;
use es_core::prelude::*;
use es_core::store::{EventFilter, RecordedEvent};
use es_core::{DecideError, Decided, Decision};

use super::tags::{Course, CourseError, Enrolled, Pupil};

#[derive(Clone)]
struct Join {
    course: u64,
    student: String,
    tags: [Tag; 2],
}

impl Join {
    /// A text from outside may be too long for a tag. That is said here, since `scope` cannot fail.
    fn new(course: u64, student: &str) -> Result<Self, LimitError> {
        let tags = [Tag::new("course", course)?, Tag::new("student", student)?];
        Ok(Self { course, student: student.to_owned(), tags })
    }
}

#[derive(Default)]
struct Seats {
    in_course: u32,
    of_student: u32,
}

impl Decision for Join {
    type State = Seats;
    type Error = CourseError;

    /// Nothing that this matches may come in between: else it is read and decided again.
    fn scope(&self) -> EventFilter {
        let enrolled = EventFilter::of::<Enrolled>();
        let [course, student] = &self.tags;
        enrolled.clone().tagged(course).or(enrolled.tagged(student))
    }

    fn apply(&self, seats: &mut Seats, event: &RecordedEvent) -> Result<(), BoxError> {
        if let Some(enrolled) = event.payload::<Enrolled>()? {
            seats.in_course += u32::from(enrolled.course == self.course);
            seats.of_student += u32::from(enrolled.pupil.id == self.student);
        }
        Ok(())
    }

    fn decide(self, seats: &Seats) -> Result<Vec<Decided>, CourseError> {
        match seats {
            Seats { in_course: 2.., .. } => Err(CourseError::Full),
            Seats { of_student: 2.., .. } => Err(CourseError::Busy),
            Seats { .. } => {
                let enrolled = Enrolled { course: self.course, pupil: Pupil { id: self.student } };
                Ok(vec![Decided::on::<Course>(&self.course, enrolled)])
            }
        }
    }
}

pub async fn run() -> anyhow::Result<()> {
    let app = App::on(MemoryBackend::new()).start().await?;
    let join = |course, student| Join::new(course, student).map(|join| app.decide(join));

    // Three at once for two seats: one of them is refused, whoever is first.
    let (a, b, c) = futures::join!(join(1, "ada")?, join(1, "bob")?, join(1, "eve")?);
    let refused: Vec<_> = [a, b, c].into_iter().filter_map(Result::err).collect();
    assert!(matches!(refused[..], [DecideError::Refused(CourseError::Full)]), "{refused:?}");

    join(2, "zoe")?.await?;
    join(3, "zoe")?.await?;
    assert!(matches!(join(4, "zoe")?.await, Err(DecideError::Refused(CourseError::Busy))));
    crate::say(format!("of three for two seats: {:?}", refused[0]));
    Ok(())
}
