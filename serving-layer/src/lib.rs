//! The serving layer: questions to answers.
