//! `tidemark check`: every problem of an application folder, or what it defines.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use event_log::LogError;
use event_log::encode::value_subject;
use views::view::Exactness;
use views::{Application, Source, View};

use crate::application;
use crate::backends::open_registry;
use crate::command_line::print;
use crate::failure::{Failure, Result};
use crate::settings::{Effective, Places, Settings};
use crate::units::duration_in_words;

/// Checks a folder and says what it found. Where the settings name a registry, it is asked whether it takes the schemas.
///
/// # Errors
///
/// Every problem, one a line.
pub async fn run(dir: &Path, config: Option<PathBuf>) -> Result {
    let folder = application::Folder::read(dir)?;
    let environment = std::env::vars().collect();
    let places = Places { application: folder.settings.clone(), file: config, environment, ..Places::default() };
    let settings = match Effective::read(&places) {
        Ok(effective) => effective.settings,
        Err(problem) => {
            let others = folder.compile().err().map(|failure| format!("{}\n", failure.message)).unwrap_or_default();
            // The problems go to stdout, so that an editor or a pipe can take them.
            return problems(&format!("{others}{problem}"));
        }
    };
    let folder = folder.with_subjects(&settings).await?;
    let application = match folder.compile() {
        Ok(application) => application,
        Err(failure) => return problems(&failure.message),
    };
    let incompatible = incompatible_schemas(&application, &settings).await?;
    if !incompatible.is_empty() {
        return problems(&incompatible.join("\n"));
    }
    print(described(&application));
    Ok(())
}

/// The sources whose schema the registry would not take, each with the views that it would break.
async fn incompatible_schemas(application: &Application, settings: &Settings) -> Result<Vec<String>> {
    if settings.registry.url.is_none() {
        return Ok(Vec::new());
    }
    let registry = open_registry(settings).await?;
    let mut found = Vec::new();
    for source in &application.sources {
        let problem = match registry.check(&value_subject(&source.name), &source.avro).await {
            Ok(()) => continue,
            Err(LogError::Invalid(problem)) => problem,
            Err(other) => return Err(Failure::new(format!("schema registry: {other}"))),
        };
        let views = application.views.iter().filter(|view| view.source.name == source.name);
        let views: Vec<&str> = views.map(|view| &*view.name).collect();
        let broken = if views.is_empty() { String::new() } else { format!("; it would break {}", views.join(", ")) };
        found.push(format!("{}: source {}: {problem}{broken}", source.defined_at, source.name));
    }
    Ok(found)
}

fn problems(text: &str) -> Result {
    print(format!("{text}\n"));
    let count = text.lines().count();
    Err(Failure::new(format!("{count} problem{}", if count == 1 { "" } else { "s" })))
}

/// `1 source, 5 views`.
pub fn counts(application: &Application) -> String {
    let count = |number: usize, one: &str| format!("{number} {one}{}", if number == 1 { "" } else { "s" });
    let Application { sources, views } = application;
    format!("{}, {}", count(sources.len(), "source"), count(views.len(), "view"))
}

/// What an application defines, for a person.
fn described(application: &Application) -> String {
    let mut out = String::new();
    for source in &application.sources {
        describe_source(&mut out, source);
    }
    for view in &application.views {
        describe_view(&mut out, view);
    }
    let _ = writeln!(out, "{}: no problems", counts(application));
    out
}

// Writing to a String cannot fail.
fn describe_source(out: &mut String, source: &Source) {
    let key = source.key.as_deref().unwrap_or("none");
    let time = source.event_time.as_deref().unwrap_or("the append time");
    let _ = writeln!(out, "source {} ({})", source.name, source.defined_at);
    let _ = writeln!(out, "  key {key}, event time {time}, {} partitions", source.partitions);
    if let Some(id) = &source.event_id {
        let _ = writeln!(out, "  event id {id}, remembered for {}", duration_in_words(source.dedupe_window));
    }
    for field in source.schema.fields().iter().take(source.event_columns()) {
        let nullable = if field.is_nullable() { ", nullable" } else { "" };
        let _ = writeln!(out, "    {:<20} {}{nullable}", field.name(), field.data_type());
    }
    out.push('\n');
}

fn describe_view(out: &mut String, view: &View) {
    let names: Vec<&str> = view.group_schema.fields().iter().map(|field| field.name().as_str()).collect();
    let _ = writeln!(out, "view {} of {} ({})", view.name, view.source.name, view.defined_at);
    let _ = write!(out, "  key {}", names[..view.key_columns].join(", "));
    if let Some(time) = view.time {
        let _ = write!(out, "; tiles {}", names[time.index]);
        if let Some(width) = time.width_us.and_then(|width| u64::try_from(width).ok()) {
            let _ = write!(out, " of {}", duration_in_words(std::time::Duration::from_micros(width)));
        }
    }
    if let Some(retention) = view.retention {
        let _ = write!(out, "; kept {}", duration_in_words(retention));
    }
    out.push('\n');
    for column in &view.columns {
        let exactness = match column.exactness {
            Exactness::Exact => "exact",
            Exactness::Float => "to 1e-9",
            Exactness::Sketch => "a sketch",
        };
        let _ = writeln!(out, "    {:<20} {:<28} {exactness}", column.name, column.data_type.to_string());
    }
    out.push('\n');
}
