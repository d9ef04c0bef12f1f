//! Tokens to statements and expressions, by Jinja's grammar.

mod expressions;

use std::prelude::rust_2024::*;

use super::lexer::{Kind, Token, Wrong};
use super::text::Text;
use super::tree::{Body, Expr, For, Macro, Post, Stmt, Target};

/// How deep statements and expressions may nest.
const NESTING: usize = 60;

const SPECIAL: [&str; 3] = ["varargs", "kwargs", "caller"];

pub(super) fn parse(tokens: Vec<Token>) -> Result<Body, Wrong> {
    let mut parser = Parser {
        tokens,
        at: 0,
        depth: 0,
        in_loop: false,
        special: [false; 3],
    };
    parser.body(&[])
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
    /// Whether `break` and `continue` have a loop.
    in_loop: bool,
    /// Which special names of a macro have been met in it.
    special: [bool; 3],
}

type Parsed<T> = Result<T, Wrong>;

impl Parser {
    fn token(&self) -> &Token {
        // The last token is the end, and the parser never moves past it.
        &self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    fn ahead(&self) -> &Kind {
        &self.tokens[(self.at + 1).min(self.tokens.len() - 1)].kind
    }

    fn line(&self) -> usize {
        self.token().line
    }

    fn fail<T>(&self, what: impl Into<String>) -> Parsed<T> {
        Err((what.into(), self.line()))
    }

    /// The name of the current token in messages.
    fn found(&self) -> String {
        match &self.token().kind {
            Kind::Data(_) => "template data".into(),
            Kind::VariableBegin => "`{{`".into(),
            Kind::VariableEnd => "`}}`".into(),
            Kind::BlockBegin => "`{%`".into(),
            Kind::BlockEnd => "`%}`".into(),
            Kind::Name(name) => format!("`{name}`"),
            Kind::Str(_) => "a string".into(),
            Kind::Int(_) | Kind::Float(_) => "a number".into(),
            Kind::Sign(sign) => format!("`{sign}`"),
            Kind::End => "the end of the template".into(),
        }
    }

    fn is_sign(&self, sign: &str) -> bool {
        matches!(self.token().kind, Kind::Sign(found) if found == sign)
    }

    fn skip_sign(&mut self, sign: &str) -> bool {
        let found = self.is_sign(sign);
        self.at += usize::from(found);
        found
    }

    fn expect_sign(&mut self, sign: &str) -> Parsed<()> {
        if self.skip_sign(sign) {
            return Ok(());
        }
        self.fail(format!("expected `{sign}`, found {}", self.found()))
    }

    fn is_name(&self, name: &str) -> bool {
        matches!(&self.token().kind, Kind::Name(found) if found == name)
    }

    fn skip_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        self.at += usize::from(found);
        found
    }

    fn expect_name(&mut self, name: &str) -> Parsed<()> {
        if self.skip_name(name) {
            return Ok(());
        }
        self.fail(format!("expected `{name}`, found {}", self.found()))
    }

    fn any_name(&mut self) -> Parsed<String> {
        match &self.token().kind {
            Kind::Name(name) => {
                let name = name.clone();
                self.at += 1;
                Ok(name)
            }
            _ => self.fail(format!("expected a name, found {}", self.found())),
        }
    }

    fn expect_block_end(&mut self) -> Parsed<()> {
        if self.token().kind == Kind::BlockEnd {
            self.at += 1;
            return Ok(());
        }
        self.fail(format!("expected `%}}`, found {}", self.found()))
    }

    /// Counts how deep `inner` is.
    fn nested<T>(&mut self, inner: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.depth == NESTING {
            return self.fail(format!("the template nests more than {NESTING} deep"));
        }
        self.depth += 1;
        let result = inner(self);
        self.depth -= 1;
        result
    }

    /// Statements up to one of `ends`, whose name is then the current token; up to the end if
    /// there are none.
    fn body(&mut self, ends: &[&str]) -> Parsed<Body> {
        let mut body = Vec::new();
        loop {
            let line = self.line();
            match &self.token().kind {
                Kind::Data(text) => {
                    body.push((line, Stmt::Data(Text::template(text))));
                    self.at += 1;
                }
                Kind::VariableBegin => {
                    self.at += 1;
                    let printed = self.tuple(true, &[])?;
                    body.push((line, Stmt::Print(printed)));
                    if self.token().kind != Kind::VariableEnd {
                        return self.fail(format!("expected `}}}}`, found {}", self.found()));
                    }
                    self.at += 1;
                }
                Kind::BlockBegin => {
                    self.at += 1;
                    if ends.iter().any(|end| self.is_name(end)) {
                        return Ok(body);
                    }
                    let statements = self.nested(Self::statement)?;
                    body.extend(statements.into_iter().map(|statement| (line, statement)));
                    self.expect_block_end()?;
                }
                Kind::End if ends.is_empty() => return Ok(body),
                Kind::End => {
                    return self.fail(format!(
                        "the template ends without `{}`",
                        ends.join("` or `")
                    ));
                }
                _ => return self.fail(format!("unexpected {}", self.found())),
            }
        }
    }

    /// The end of the opening tag, the statements, and the name that ends them.
    fn inner(&mut self, ends: &[&str]) -> Parsed<Body> {
        self.skip_sign(":");
        self.expect_block_end()?;
        self.body(ends)
    }

    fn inner_to(&mut self, end: &str) -> Parsed<Body> {
        let body = self.inner(&[end])?;
        self.at += 1;
        Ok(body)
    }

    /// A body that is a function of its own in Jinja, so `break` cannot leave a loop around it.
    fn function(&mut self, end: &str) -> Parsed<Body> {
        let in_loop = std::mem::replace(&mut self.in_loop, false);
        let body = self.inner_to(end);
        self.in_loop = in_loop;
        body
    }

    fn statement(&mut self) -> Parsed<Vec<Stmt>> {
        let line = self.line();
        let name = match &self.token().kind {
            Kind::Name(name) => name.clone(),
            _ => {
                return self.fail(format!(
                    "expected the name of a tag, found {}",
                    self.found()
                ));
            }
        };
        self.at += 1;
        let statement = match name.as_str() {
            "set" => self.set()?,
            "if" => self.if_()?,
            "for" => self.for_()?,
            "with" => self.with()?,
            "macro" => {
                let name = self.any_name()?;
                Stmt::Macro(Box::new(self.macro_(Some(name), true, "endmacro")?))
            }
            "call" => self.call(line)?,
            "filter" => {
                let filters = self.filters(true)?;
                Stmt::Filter(filters, self.inner_to("endfilter")?)
            }
            // Marks what the assistant said, for training. The text stays as it is.
            "generation" => Stmt::Scope(self.function("endgeneration")?),
            "autoescape" => {
                self.expression()?;
                Stmt::Scope(self.inner_to("endautoescape")?)
            }
            "block" => self.block()?,
            "print" => return self.print(),
            "break" if self.in_loop => Stmt::Break,
            "continue" if self.in_loop => Stmt::Continue,
            "break" | "continue" => return Err((format!("`{name}` outside of a loop"), line)),
            "include" | "import" | "from" | "extends" => {
                return Err((
                    format!("`{name}` needs other templates, and there are none"),
                    line,
                ));
            }
            _ => return Err((format!("Encountered unknown tag '{name}'"), line)),
        };
        Ok(vec![statement])
    }

    /// Expressions with commas between them.
    fn print(&mut self) -> Parsed<Vec<Stmt>> {
        let mut printed = vec![Stmt::Print(self.expression()?)];
        while self.skip_sign(",") {
            printed.push(Stmt::Print(self.expression()?));
        }
        Ok(printed)
    }

    /// A call whose body becomes `caller`.
    fn call(&mut self, line: usize) -> Parsed<Stmt> {
        let parameters = self.is_sign("(");
        let outer = std::mem::take(&mut self.special);
        let mut caller = Macro {
            name: None,
            parameters: if parameters {
                self.parameters()?
            } else {
                Vec::new()
            },
            body: Vec::new(),
            special: [false; 3],
        };
        let mut in_parameters = std::mem::replace(&mut self.special, outer);
        let call = self.expression()?;
        let posts = match &call {
            Expr::Post(_, posts) => posts.as_slice(),
            _ => &[],
        };
        if !matches!(posts.last(), Some(Post::Call(_))) {
            return Err(("expected a call".into(), line));
        }
        let outer = std::mem::take(&mut self.special);
        caller.body = self.function("endcall")?;
        for (special, found) in in_parameters.iter_mut().zip(self.special) {
            *special |= found;
        }
        caller.special = in_parameters;
        self.outer(outer);
        Ok(Stmt::Call(Box::new(caller), call))
    }

    fn block(&mut self) -> Parsed<Stmt> {
        let name = self.any_name()?;
        self.skip_name("scoped");
        self.skip_name("required");
        let body = self.function("endblock")?;
        self.skip_name(&name);
        Ok(Stmt::Scope(body))
    }

    fn set(&mut self) -> Parsed<Stmt> {
        let target = self.target(true, &[])?;
        if self.skip_sign("=") {
            return Ok(Stmt::Set(target, self.tuple(true, &[])?));
        }
        let filters = self.filters(false)?;
        Ok(Stmt::SetBlock(target, filters, self.inner_to("endset")?))
    }

    fn if_(&mut self) -> Parsed<Stmt> {
        let mut branches = Vec::new();
        loop {
            let test = self.tuple(false, &[])?;
            let body = self.inner(&["elif", "else", "endif"])?;
            branches.push((test, body));
            if self.skip_name("elif") {
                continue;
            }
            let mut otherwise = Vec::new();
            if self.skip_name("else") {
                otherwise = self.inner(&["endif"])?;
            }
            self.expect_name("endif")?;
            return Ok(Stmt::If(branches, otherwise));
        }
    }

    fn for_(&mut self) -> Parsed<Stmt> {
        let target = self.target(false, &["in"])?;
        self.expect_name("in")?;
        let iterable = self.tuple(false, &["recursive"])?;
        let test = if self.skip_name("if") {
            Some(self.expression()?)
        } else {
            None
        };
        let recursive = self.skip_name("recursive");
        let in_loop = std::mem::replace(&mut self.in_loop, true);
        let body = self.inner(&["endfor", "else"]);
        self.in_loop = in_loop;
        let body = body?;
        let mut otherwise = Vec::new();
        if self.skip_name("else") {
            otherwise = self.inner(&["endfor"])?;
        }
        self.expect_name("endfor")?;
        Ok(Stmt::For(Box::new(For {
            target,
            iterable,
            test,
            recursive,
            body,
            otherwise,
        })))
    }

    fn with(&mut self) -> Parsed<Stmt> {
        let mut values = Vec::new();
        while self.token().kind != Kind::BlockEnd && !self.is_sign(":") {
            if !values.is_empty() {
                self.expect_sign(",")?;
            }
            let target = self.target(false, &[])?;
            self.expect_sign("=")?;
            values.push((target, self.expression()?));
        }
        Ok(Stmt::With(values, self.inner_to("endwith")?))
    }

    fn parameters(&mut self) -> Parsed<Vec<(String, Option<Expr>)>> {
        let mut parameters: Vec<(String, Option<Expr>)> = Vec::new();
        self.expect_sign("(")?;
        while !self.is_sign(")") {
            if !parameters.is_empty() {
                self.expect_sign(",")?;
            }
            let name = self.any_name()?;
            let default = if self.skip_sign("=") {
                Some(self.expression()?)
            } else if parameters.iter().any(|(_, default)| default.is_some()) {
                return self.fail("non-default argument follows default argument");
            } else {
                None
            };
            parameters.push((name, default));
        }
        self.expect_sign(")")?;
        Ok(parameters)
    }

    fn macro_(&mut self, name: Option<String>, parameters: bool, end: &str) -> Parsed<Macro> {
        let outer = std::mem::take(&mut self.special);
        let parameters = if parameters {
            self.parameters()?
        } else {
            Vec::new()
        };
        let body = self.function(end)?;
        let special = self.special;
        self.outer(outer);
        Ok(Macro {
            name,
            parameters,
            body,
            special,
        })
    }

    /// Returns to the outer macro. It uses the special names that the inner one uses.
    fn outer(&mut self, outer: [bool; 3]) {
        for (special, before) in self.special.iter_mut().zip(outer) {
            *special |= before;
        }
    }

    /// What can be assigned to. `attributes` are allowed in `set`.
    fn target(&mut self, attributes: bool, ends: &[&str]) -> Parsed<Target> {
        let mut targets = Vec::new();
        let mut is_tuple = false;
        loop {
            if is_tuple && (self.is_tuple_end(ends) || self.is_sign("=")) {
                break;
            }
            let target = self.nested(|parser| parser.one_target(attributes, ends))?;
            targets.push(target);
            if !self.skip_sign(",") {
                break;
            }
            is_tuple = true;
        }
        match (is_tuple, targets.pop()) {
            (false, Some(target)) => Ok(target),
            (_, last) => {
                targets.extend(last);
                Ok(Target::Tuple(targets))
            }
        }
    }

    fn one_target(&mut self, attributes: bool, ends: &[&str]) -> Parsed<Target> {
        if self.skip_sign("(") {
            let target = self.target(attributes, ends)?;
            self.expect_sign(")")?;
            return Ok(target);
        }
        let name = self.any_name()?;
        if matches!(
            name.as_str(),
            "true" | "false" | "none" | "True" | "False" | "None"
        ) {
            return self.fail(format!("can't assign to `{name}`"));
        }
        if attributes && self.skip_sign(".") {
            let attribute = self.any_name()?;
            return Ok(Target::Attribute(name, attribute));
        }
        Ok(Target::Name(name))
    }

    fn is_tuple_end(&self, ends: &[&str]) -> bool {
        matches!(
            self.token().kind,
            Kind::VariableEnd | Kind::BlockEnd | Kind::Sign(")")
        ) || ends.iter().any(|end| self.is_name(end))
    }
}
