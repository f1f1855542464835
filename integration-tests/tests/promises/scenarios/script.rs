//! A scenario's text: cut into steps, and put together again with other answers. The format is described in
//! `integration-tests/scenarios/README.md`.

use std::ops::Range;

/// What ends the body of a step and begins its answer.
const RULE: &str = "----";

/// The commands that are followed by a body.
const WITH_BODY: [&str; 5] = ["append", "file", "load", "import", "many"];
/// The commands that have no answer.
const WITHOUT_ANSWER: [&str; 4] = ["application", "file", "kill", "restart"];

/// One step.
#[derive(Debug, Clone)]
pub struct Step {
    /// The line it begins in, from 1.
    pub line: usize,
    /// Its first word.
    pub command: String,
    /// The rest of its line.
    pub arguments: String,
    /// What follows, up to the rule.
    pub body: String,
    /// Which lines are its answer, from 0; `None` for a command that has none.
    pub answer: Option<Range<usize>>,
}

/// A scenario.
#[derive(Debug)]
pub struct Script {
    lines: Vec<String>,
    /// What is to be done, in order.
    pub steps: Vec<Step>,
}

impl Script {
    /// Reads a scenario.
    ///
    /// # Errors
    ///
    /// The line, and what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let mut steps = Vec::new();
        let mut at = 0;
        while at < lines.len() {
            let line = lines[at].trim();
            if line.is_empty() || line.starts_with('#') {
                at += 1;
                continue;
            }
            let (command, arguments) = line.split_once(' ').unwrap_or((line, ""));
            let mut step = Step {
                line: at + 1,
                command: command.to_owned(),
                arguments: arguments.trim().to_owned(),
                body: String::new(),
                answer: None,
            };
            at += 1;
            let has_answer = !WITHOUT_ANSWER.contains(&command);
            if WITH_BODY.contains(&command) || has_answer {
                let rule = lines[at..].iter().position(|line| line == RULE).map(|distance| at + distance);
                let rule = rule.ok_or_else(|| format!("line {}: no {RULE} follows", step.line))?;
                if !WITH_BODY.contains(&command) && rule != at {
                    return Err(format!("line {}: {RULE} belongs right after `{command}`", at + 1));
                }
                step.body = lines[at..rule].iter().map(|line| format!("{line}\n")).collect();
                at = rule + 1;
            }
            if has_answer {
                let end = lines[at..].iter().position(|line| line.trim().is_empty());
                let end = end.map_or(lines.len(), |distance| at + distance);
                step.answer = Some(at..end);
                at = end;
            }
            steps.push(step);
        }
        Ok(Self { lines, steps })
    }

    /// What a step is expected to answer.
    pub fn expected(&self, step: &Step) -> String {
        step.answer.clone().map(|lines| self.lines[lines].join("\n")).unwrap_or_default()
    }

    /// The text with these answers, one for each step that has one, in order.
    pub fn with_answers(&self, answers: &[String]) -> String {
        let mut text = String::new();
        let mut at = 0;
        let expected = self.steps.iter().filter_map(|step| step.answer.clone());
        for (place, answer) in expected.zip(answers) {
            for line in self.lines[at..place.start].iter().map(String::as_str).chain(answer.lines()) {
                text.push_str(line);
                text.push('\n');
            }
            at = place.end;
        }
        for line in &self.lines[at..] {
            text.push_str(line);
            text.push('\n');
        }
        text
    }
}

#[test]
fn a_scenario_is_put_together_again() {
    let text = "# A comment.\n\napplication schemas/photos\n\nfile a.sql\nSELECT 1;\n\nSELECT 2;\n----\n\nappend t\n{}\n----\naccepted 1\n\n\
        lookup v?a=1\n----\na  b\n1  2\n\nkill\n";
    let script = Script::parse(text).expect("a scenario");
    let commands: Vec<&str> = script.steps.iter().map(|step| step.command.as_str()).collect();
    assert_eq!(commands, ["application", "file", "append", "lookup", "kill"]);
    assert_eq!(script.steps[1].body, "SELECT 1;\n\nSELECT 2;\n");
    assert_eq!(script.expected(&script.steps[3]), "a  b\n1  2");
    assert_eq!(script.with_answers(&["accepted 1".to_owned(), "a  b\n1  2".to_owned()]), text);
    let other = script.with_answers(&["accepted 2".to_owned(), "no rows".to_owned()]);
    assert!(other.contains("----\naccepted 2\n\nlookup v?a=1\n----\nno rows\n\nkill\n"), "{other}");
    assert!(Script::parse("append t\n{}\n").is_err() && Script::parse("lookup v\n{}\n----\n").is_err());
}
