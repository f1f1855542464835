//! Splitting a SQL file into our two statements. Their heads are ours; the `SELECT` is the SQL parser's.

use datafusion::sql::sqlparser::ast::Query;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};

use super::ApplicationFile;
use super::options::{OptionValue, Options};
use crate::error::Problem;

/// A statement, taken apart.
#[derive(Debug)]
pub(super) struct Statement {
    pub(super) file: String,
    /// The line it begins on.
    pub(super) line: usize,
    pub(super) name: String,
    pub(super) options: Options,
    /// The `SELECT` of a view; a source has none.
    pub(super) query: Option<Query>,
    /// The `SELECT` as written.
    pub(super) query_text: String,
    /// All of it as written.
    pub(super) text: String,
    /// Every word with its line, to find where a construct stands.
    words: Vec<(String, usize)>,
}

impl Statement {
    /// A problem at the statement's first line.
    pub(super) fn problem(&self, message: impl Into<String>) -> Problem {
        self.problem_at(self.line, message)
    }

    pub(super) fn problem_at(&self, line: usize, message: impl Into<String>) -> Problem {
        Problem { file: self.file.clone(), line, message: message.into() }
    }

    /// A problem where `word` first stands in the statement.
    pub(super) fn problem_near(&self, word: &str, message: impl Into<String>) -> Problem {
        let found = self.words.iter().find(|(other, _)| other.eq_ignore_ascii_case(word));
        self.problem_at(found.map_or(self.line, |(_, line)| *line), message)
    }

    /// Where it is defined: `file:line`.
    pub(super) fn place(&self) -> String {
        format!("{}:{}", self.file, self.line)
    }
}

/// Reads every statement of a file.
pub(super) fn parse(file: &ApplicationFile, statements: &mut Vec<Statement>, problems: &mut Vec<Problem>) {
    let problem = |line: usize, message: String| Problem { file: file.path.clone(), line: line.max(1), message };
    let tokens = match Tokenizer::new(&GenericDialect {}, &file.text).tokenize_with_location() {
        Ok(tokens) => tokens,
        Err(error) => {
            problems.push(problem(line_number(error.location), error.message));
            return;
        }
    };
    for tokens in tokens.split(|token| token.token == Token::SemiColon) {
        let tokens: Vec<TokenWithSpan> =
            tokens.iter().filter(|token| !matches!(token.token, Token::Whitespace(_) | Token::EOF)).cloned().collect();
        let Some(first) = tokens.first() else { continue };
        let line = line_number(first.span.start);
        match (Head { file, tokens: &tokens, next: 0 }).statement(line) {
            Ok(statement) => statements.push(statement),
            Err((line, message)) => problems.push(problem(line, message)),
        }
    }
}

type Failure = (usize, String);

struct Head<'a> {
    file: &'a ApplicationFile,
    tokens: &'a [TokenWithSpan],
    next: usize,
}

impl Head<'_> {
    fn statement(mut self, line: usize) -> Result<Statement, Failure> {
        self.keyword("CREATE", "a file holds `CREATE SOURCE` and `CREATE MATERIALIZED VIEW` statements")?;
        let is_view = if self.accept("MATERIALIZED") {
            self.keyword("VIEW", "expected `CREATE MATERIALIZED VIEW`")?;
            true
        } else {
            self.keyword("SOURCE", "expected `CREATE SOURCE` or `CREATE MATERIALIZED VIEW`")?;
            false
        };
        let name = self.name()?;
        let options = if self.accept("WITH") { self.options()? } else { Options::default() };
        let (query, query_text) = if is_view {
            self.keyword("AS", "expected `AS SELECT …`")?;
            let rest = &self.tokens[self.next..];
            let text = self.text(rest);
            (Some(query(rest, self.line())?), text)
        } else if self.next < self.tokens.len() {
            let message = format!("expected `;` after the options of the source, found `{}`", self.shown());
            return Err((self.line(), message));
        } else {
            (None, String::new())
        };
        let words = self.tokens.iter().filter_map(|token| match &token.token {
            Token::Word(word) => Some((word.value.clone(), line_number(token.span.start))),
            _ => None,
        });
        Ok(Statement {
            file: self.file.path.clone(),
            line,
            name,
            options,
            query,
            query_text,
            text: self.text(self.tokens),
            words: words.collect(),
        })
    }

    /// The text that some of the tokens were read from.
    fn text(&self, tokens: &[TokenWithSpan]) -> String {
        let (Some(first), Some(last)) = (tokens.first(), tokens.last()) else { return String::new() };
        let (start, end) = (byte_at(&self.file.text, first.span.start), byte_at(&self.file.text, last.span.end));
        self.file.text.get(start..end).unwrap_or_default().to_owned()
    }

    fn line(&self) -> usize {
        let token = self.tokens.get(self.next).or_else(|| self.tokens.last());
        token.map_or(1, |token| line_number(token.span.start))
    }

    fn shown(&self) -> String {
        self.tokens.get(self.next).map_or_else(|| "end of statement".to_owned(), |token| token.token.to_string())
    }

    fn accept(&mut self, keyword: &str) -> bool {
        let found = matches!(self.tokens.get(self.next).map(|token| &token.token),
            Some(Token::Word(word)) if word.quote_style.is_none() && word.value.eq_ignore_ascii_case(keyword));
        self.next += usize::from(found);
        found
    }

    fn keyword(&mut self, keyword: &str, expectation: &str) -> Result<(), Failure> {
        if self.accept(keyword) {
            Ok(())
        } else {
            Err((self.line(), format!("{expectation}, found `{}`", self.shown())))
        }
    }

    fn take(&mut self) -> Option<&Token> {
        let token = self.tokens.get(self.next)?;
        self.next += 1;
        Some(&token.token)
    }

    fn name(&mut self) -> Result<String, Failure> {
        let line = self.line();
        let shown = self.shown();
        let name = match self.take() {
            Some(Token::Word(word)) if word.quote_style.is_some() => word.value.clone(),
            Some(Token::Word(word)) => word.value.to_lowercase(),
            _ => return Err((line, format!("expected a name, found `{shown}`"))),
        };
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        if name.is_empty() || name.len() > 180 || !name.chars().all(is_allowed) {
            return Err((line, format!("`{name}` cannot be a name: letters, digits, `_` and `-`, at most 180")));
        }
        Ok(name)
    }

    fn options(&mut self) -> Result<Options, Failure> {
        let mut options = Options::default();
        self.symbol(&Token::LParen, "expected `(` after WITH")?;
        loop {
            let line = self.line();
            let name = self.name()?;
            self.symbol(&Token::Eq, &format!("expected `=` after the option `{name}`"))?;
            let value = self.option_value(&name)?;
            if options.insert(name.clone(), OptionValue { value, line }).is_some() {
                return Err((line, format!("option `{name}` is given twice")));
            }
            if self.tokens.get(self.next).is_some_and(|token| token.token == Token::Comma) {
                self.next += 1;
                continue;
            }
            self.symbol(&Token::RParen, "expected `,` or `)` in the options")?;
            return Ok(options);
        }
    }

    /// A string, a number, a bare word, or a list of words in parentheses.
    fn option_value(&mut self, name: &str) -> Result<String, Failure> {
        let line = self.line();
        let shown = self.shown();
        match self.take() {
            Some(Token::SingleQuotedString(text)) => Ok(text.clone()),
            Some(Token::Number(digits, _)) => Ok(digits.clone()),
            Some(Token::Word(word)) => Ok(word.value.clone()),
            Some(Token::LParen) => {
                let mut list = vec![self.option_value(name)?];
                while self.tokens.get(self.next).is_some_and(|token| token.token == Token::Comma) {
                    self.next += 1;
                    list.push(self.option_value(name)?);
                }
                self.symbol(&Token::RParen, "expected `)`")?;
                Ok(list.join(","))
            }
            _ => Err((line, format!("expected a value for the option `{name}`, found `{shown}`"))),
        }
    }

    fn symbol(&mut self, symbol: &Token, expectation: &str) -> Result<(), Failure> {
        if self.tokens.get(self.next).is_some_and(|token| token.token == *symbol) {
            self.next += 1;
            return Ok(());
        }
        Err((self.line(), format!("{expectation}, found `{}`", self.shown())))
    }
}

fn query(tokens: &[TokenWithSpan], line: usize) -> Result<Query, Failure> {
    let mut parser = Parser::new(&GenericDialect {}).with_tokens_with_locations(tokens.to_vec());
    let failure = |error: ParserError| {
        let message = match error {
            ParserError::ParserError(message) | ParserError::TokenizerError(message) => message,
            ParserError::RecursionLimitExceeded => "nested too deeply".to_owned(),
        };
        // The parser appends the place to its message.
        match message.split_once(" at Line: ") {
            Some((message, place)) => {
                let digits: String = place.chars().take_while(char::is_ascii_digit).collect();
                (digits.parse().unwrap_or(line), message.to_owned())
            }
            None => (line, message),
        }
    };
    let query = parser.parse_query().map_err(failure)?;
    match parser.peek_token() {
        end if end.token == Token::EOF => Ok(*query),
        extra => Err((line_number(extra.span.start), format!("unexpected `{}` after the SELECT", extra.token))),
    }
}

fn line_number(location: Location) -> usize {
    usize::try_from(location.line).unwrap_or(usize::MAX)
}

fn byte_at(text: &str, location: Location) -> usize {
    let line = text.split_inclusive('\n').nth(line_number(location).saturating_sub(1)).unwrap_or_default();
    let before: usize = text.split_inclusive('\n').take(line_number(location).saturating_sub(1)).map(str::len).sum();
    let column = usize::try_from(location.column.saturating_sub(1)).unwrap_or(usize::MAX);
    before + line.char_indices().nth(column).map_or(line.len(), |(index, _)| index)
}
