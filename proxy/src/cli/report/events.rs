//! The part of a report that takes time: flow events of some seconds, one object a line.

use std::{ops::ControlFlow, time::Duration};

use super::{anonymize::Form, collection::Collection};
use crate::{
    cli::{agents::Place, events, output},
    error::chain,
    observe::events::{filter::EventFilter, record::EventMessage},
};

/// Its file in a report.
pub const FILE: &str = "events.jsonl";
/// Limit of lines, about half a kilobyte each.
const MAX_EVENTS: usize = 50_000;

/// Listens to the agent for so long.
pub fn collect(place: &Place, seconds: u32, collection: &mut Collection) {
    let limit = Duration::from_secs(seconds.into());
    let (mut text, mut count) = (String::new(), 0);
    let listened = events::listen(place, &EventFilter::default(), Some(limit), |message| {
        match &message {
            EventMessage::Listening { .. } => {
                output::print_warning(&format!(
                    "listening to events for {seconds} s (--events 0: not at all)"
                ));
                return Ok(ControlFlow::Continue(()));
            }
            EventMessage::Event(event) => text += &events::json_line(event)?,
            EventMessage::LostEvents(_) | EventMessage::Refused { .. } => {
                text += &events::json_line(&message)?
            }
        }
        count += 1;
        Ok(if count < MAX_EVENTS { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    });
    match listened {
        Ok(()) if count < MAX_EVENTS => collection.add(FILE, Form::Events, Ok(text)),
        Ok(()) => {
            collection.lack(FILE, format!("only the first {MAX_EVENTS} events are there"));
            collection.add(FILE, Form::Events, Ok(text));
        }
        Err(error) if text.is_empty() => collection.add(FILE, Form::Events, Err(error)),
        Err(error) => {
            collection.lack(FILE, format!("not whole: {}", chain(error.as_ref())));
            collection.add(FILE, Form::Events, Ok(text));
        }
    }
}
