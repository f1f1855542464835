//! From an application folder's files to compiled sources and views.
//!
//! [`statement`] splits `*.sql` files into `CREATE SOURCE` and `CREATE MATERIALIZED VIEW` and reads their options,
//! [`create_source`] and [`create_view`] compile them. Nothing stops at the first problem: `check` shows all.

mod catalog;
mod create_source;
mod create_view;
mod options;
mod select;
mod statement;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::error::Problem;
use crate::source::Source;
use crate::view::View;
use statement::Statement;

/// One file of an application folder: an Avro schema (`*.avsc`) or SQL (`*.sql`).
#[derive(Debug, Clone)]
pub struct ApplicationFile {
    /// Its path, relative to the folder.
    pub path: String,
    /// What it says.
    pub text: String,
}

/// A compiled application folder.
#[derive(Debug, Clone, Default)]
pub struct Application {
    /// Its sources, in the order of files and statements.
    pub sources: Vec<Arc<Source>>,
    /// Its views, in the order of files and statements.
    pub views: Vec<Arc<View>>,
}

impl Application {
    /// Compiles the `*.sql` files of a folder; every other file is a schema, known by its path: a `*.avsc` file, or what a registry
    /// has under a subject of that name.
    ///
    /// # Errors
    ///
    /// Every problem found, with its file and line.
    pub fn compile(files: &[ApplicationFile]) -> Result<Application, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut statements = Vec::new();
        for file in files.iter().filter(|file| file.path.ends_with(".sql")) {
            statement::parse(file, &mut statements, &mut problems);
        }
        let schemas: HashMap<&str, &str> = files
            .iter()
            .filter(|file| !file.path.ends_with(".sql"))
            .map(|file| (file.path.as_str(), file.text.as_str()))
            .collect();

        let mut application = Application::default();
        let mut names: HashMap<String, String> = HashMap::new();
        let mut is_new_name = |statement: &Statement, problems: &mut Vec<Problem>| {
            let place = format!("{}:{}", statement.file, statement.line);
            match names.insert(statement.name.clone(), place) {
                None => true,
                Some(first) => {
                    let name = &statement.name;
                    problems.push(statement.problem(format!("`{name}` is defined already, at {first}")));
                    false
                }
            }
        };
        // Views may stand before the sources they read.
        let (sources, views): (Vec<_>, Vec<_>) = statements.iter().partition(|statement| statement.query.is_none());
        for statement in sources {
            if is_new_name(statement, &mut problems)
                && let Some(source) = create_source::compile(statement, &schemas, &mut problems)
            {
                application.sources.push(Arc::new(source));
            }
        }
        let catalog = catalog::Catalog::new(&application.sources);
        for statement in views {
            if is_new_name(statement, &mut problems)
                && let Some(view) = create_view::compile(statement, &catalog, &mut problems)
            {
                application.views.push(Arc::new(view));
            }
        }
        if statements.is_empty() && problems.is_empty() {
            let message = "nothing is defined: no CREATE SOURCE in any *.sql file".to_owned();
            problems.push(Problem { file: ".".to_owned(), line: 1, message });
        }
        if problems.is_empty() { Ok(application) } else { Err(problems) }
    }

    /// The schemas that sources ask for and that are not among the files: subjects of a registry, or mistakes.
    pub fn schemas_elsewhere(files: &[ApplicationFile]) -> BTreeSet<String> {
        let (mut statements, mut problems) = (Vec::new(), Vec::new());
        for file in files.iter().filter(|file| file.path.ends_with(".sql")) {
            statement::parse(file, &mut statements, &mut problems);
        }
        let wanted = statements.iter().filter_map(create_source::schema_of);
        wanted.filter(|name| !files.iter().any(|file| file.path == *name)).collect()
    }

    /// The source of this name.
    pub fn source(&self, name: &str) -> Option<&Arc<Source>> {
        self.sources.iter().find(|source| &*source.name == name)
    }

    /// The view of this name.
    pub fn view(&self, name: &str) -> Option<&Arc<View>> {
        self.views.iter().find(|view| &*view.name == name)
    }
}
