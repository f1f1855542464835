//! An application folder: read from disk, or one that is compiled in.

use std::path::Path;

use views::{Application, ApplicationFile};

use crate::backends::open_registry;
use crate::failure::{Context as _, Failure, Result};
use crate::settings::Settings;

/// The name of an application's settings.
const SETTINGS: &str = "tidemark.toml";

/// Where an application's files come from.
#[derive(Debug, Clone)]
pub struct Folder {
    /// What to call it.
    pub name: String,
    /// Schemas and SQL, by path.
    pub files: Vec<ApplicationFile>,
    /// Its settings, with the name to report them under.
    pub settings: Option<(String, String)>,
}

/// The clickstream application, as it is in `schemas/clickstream`.
pub fn clickstream() -> Folder {
    const FILES: [(&str, &str); 2] = [
        ("page_event.avsc", include_str!("../../schemas/clickstream/page_event.avsc")),
        ("views.sql", include_str!("../../schemas/clickstream/views.sql")),
    ];
    let file = |(path, text): (&str, &str)| ApplicationFile { path: path.to_owned(), text: text.to_owned() };
    let settings = include_str!("../../schemas/clickstream/tidemark.toml");
    Folder {
        name: "clickstream".to_owned(),
        files: FILES.map(file).to_vec(),
        settings: Some(("clickstream/tidemark.toml".to_owned(), settings.to_owned())),
    }
}

impl Folder {
    /// Reads a folder, not its subfolders.
    ///
    /// # Errors
    ///
    /// When a file cannot be read or is not UTF-8.
    pub fn read(dir: &Path) -> Result<Self> {
        let mut files = Vec::new();
        let mut settings = None;
        let shown = dir.display();
        for entry in std::fs::read_dir(dir).context(format!("application folder {shown}"))? {
            let path = entry.context(shown.to_string())?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()).map(str::to_owned) else { continue };
            let is_definition = name.ends_with(".avsc") || name.ends_with(".sql");
            if !path.is_file() || !(is_definition || name == SETTINGS) {
                continue;
            }
            let text = std::fs::read_to_string(&path).context(path.display())?;
            if is_definition {
                files.push(ApplicationFile { path: name, text });
            } else {
                settings = Some((path.display().to_string(), text));
            }
        }
        // The order of a directory is anybody's; the order of names is everybody's.
        files.sort_by(|a, b| a.path.cmp(&b.path));
        if !files.iter().any(|file| file.path.ends_with(".sql")) {
            return Err(Failure::new(format!("application folder {shown}: no *.sql file in it")));
        }
        Ok(Self { name: shown.to_string(), files, settings })
    }

    /// Takes the schemas that are no files from the registry, when there is one: the latest of the subject of that name.
    ///
    /// # Errors
    ///
    /// When the registry cannot be asked, or has no such subject.
    pub async fn with_subjects(mut self, settings: &Settings) -> Result<Self> {
        let wanted = Application::schemas_elsewhere(&self.files);
        if wanted.is_empty() || settings.registry.url.is_none() {
            return Ok(self);
        }
        let registry = open_registry(settings).await?;
        for subject in wanted {
            let (_, schema) = registry.latest(&subject).await.context(format!("schema `{subject}`"))?;
            self.files.push(ApplicationFile { path: subject, text: schema.to_string() });
        }
        Ok(self)
    }

    /// Compiles it.
    ///
    /// # Errors
    ///
    /// Every problem, one a line.
    pub fn compile(&self) -> Result<Application> {
        Application::compile(&self.files).map_err(|problems| {
            let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
            Failure::new(lines.join("\n"))
        })
    }
}

/// Reads and compiles a folder.
///
/// # Errors
///
/// See [`Folder::read`] and [`Folder::compile`].
pub fn read(dir: &Path) -> Result<(Application, Folder)> {
    let folder = Folder::read(dir)?;
    Ok((folder.compile()?, folder))
}
