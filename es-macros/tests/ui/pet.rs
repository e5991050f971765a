//! A small aggregate without commands: each test writes its own.
#![allow(dead_code, reason = "each test uses a part of it")]

use es_core::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Renamed {}

#[derive(Event, Clone, Debug)]
#[event(prefix = "pet")]
pub enum PetEvent {
    Renamed(Renamed),
}

#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
#[error("no")]
pub struct No;

#[derive(Aggregate, Clone, Default)]
#[aggregate(id = String, event = PetEvent, error = No)]
pub struct Pet {}

impl Apply for Pet {
    fn apply(&mut self, _: &PetEvent) {}
}

#[derive(Clone, Serialize, Deserialize)]
pub struct Rename {}

#[derive(Clone, Serialize, Deserialize)]
pub struct Feed {}

pub struct Vet;
