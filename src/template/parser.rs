//! Tokens to statements and expressions, by Jinja's grammar.

use std::prelude::rust_2024::*;

use super::lexer::{Kind, Token, Wrong};
use super::text::Text;
use super::value::Value;

/// Statements in statements, expressions in expressions…: how deep they may nest.
const NESTING: usize = 60;

pub(super) type Body = Vec<(usize, Stmt)>;

/// A statement. Bodies have the line of each statement beside it.
pub(super) enum Stmt {
    Data(Text),
    Print(Expr),
    Set(Target, Expr),
    SetBlock(Target, Vec<Post>, Body),
    If(Vec<(Expr, Body)>, Body),
    For(Box<For>),
    With(Vec<(Target, Expr)>, Body),
    Macro(Box<Macro>),
    Call(Box<Macro>, Expr),
    Filter(Vec<Post>, Body),
    Scope(Body),
    Break,
    Continue,
}

pub(super) struct For {
    pub(super) target: Target,
    pub(super) iterable: Expr,
    pub(super) test: Option<Expr>,
    pub(super) recursive: bool,
    pub(super) body: Body,
    pub(super) otherwise: Body,
}

/// A macro, or the body of a `call` block, which has no name.
pub(super) struct Macro {
    pub(super) name: Option<String>,
    pub(super) parameters: Vec<(String, Option<Expr>)>,
    pub(super) body: Body,
    /// Whether the body speaks of `varargs`, `kwargs` and `caller`: only then are they accepted.
    pub(super) special: [bool; 3],
}

const SPECIAL: [&str; 3] = ["varargs", "kwargs", "caller"];

pub(super) enum Target {
    Name(String),
    Attribute(String, String),
    Tuple(Vec<Target>),
}

pub(super) enum Expr {
    Const(Value),
    Name(String),
    List(Vec<Expr>),
    Tuple(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    /// Test, then, else.
    If(Box<(Expr, Expr, Option<Expr>)>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Not(Box<Expr>),
    Compare(Box<Expr>, Vec<(&'static str, Expr)>),
    /// Operators of one precedence, from left to right.
    Math(Box<Expr>, Vec<(&'static str, Expr)>),
    Concat(Vec<Expr>),
    /// Whether it is negated, and what.
    Sign(bool, Box<Expr>),
    Post(Box<Expr>, Vec<Post>),
}

/// What stands behind an expression.
pub(super) enum Post {
    Attribute(String),
    Item(Expr),
    Slice([Option<Expr>; 3]),
    Call(Arguments),
    Filter(String, Arguments),
    /// Whether it is negated, its name and its arguments.
    Test(bool, String, Arguments),
}

#[derive(Default)]
pub(super) struct Arguments {
    pub(super) positional: Vec<Expr>,
    pub(super) named: Vec<(String, Expr)>,
    pub(super) more: Option<Expr>,
    pub(super) more_named: Option<Expr>,
}

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
        // The last token is the end, and nothing goes beyond it.
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

    /// What the current token is called in messages.
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

    /// A body that is a function of its own in Jinja: no loop around it counts.
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
            "call" => {
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
                if !matches!(&call, Expr::Post(_, posts) if matches!(posts.last(), Some(Post::Call(_))))
                {
                    return Err(("expected a call".into(), line));
                }
                let outer = std::mem::take(&mut self.special);
                caller.body = self.function("endcall")?;
                for (special, found) in in_parameters.iter_mut().zip(self.special) {
                    *special |= found;
                }
                caller.special = in_parameters;
                self.outer(outer);
                Stmt::Call(Box::new(caller), call)
            }
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
            "block" => {
                let name = self.any_name()?;
                self.skip_name("scoped");
                self.skip_name("required");
                let body = self.function("endblock")?;
                self.skip_name(&name);
                Stmt::Scope(body)
            }
            "print" => {
                let mut printed = vec![Stmt::Print(self.expression()?)];
                while self.skip_sign(",") {
                    printed.push(Stmt::Print(self.expression()?));
                }
                return Ok(printed);
            }
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

    /// Back in the macro around: what an inner one speaks of, the outer one does too.
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

    /// An expression, or several with commas, which are a tuple.
    fn tuple(&mut self, conditional: bool, ends: &[&str]) -> Parsed<Expr> {
        let mut items = Vec::new();
        let mut is_tuple = false;
        while !self.is_tuple_end(ends) {
            let item = if conditional {
                self.expression()?
            } else {
                self.nested(Self::or)?
            };
            items.push(item);
            if !self.skip_sign(",") {
                break;
            }
            is_tuple = true;
        }
        match (is_tuple, items.pop()) {
            (false, Some(item)) => Ok(item),
            (false, None) => self.fail(format!("expected an expression, found {}", self.found())),
            (true, last) => {
                items.extend(last);
                Ok(Expr::Tuple(items))
            }
        }
    }

    fn expression(&mut self) -> Parsed<Expr> {
        self.nested(|parser| {
            let mut value = parser.or()?;
            while parser.skip_name("if") {
                let test = parser.or()?;
                let otherwise = if parser.skip_name("else") {
                    Some(parser.expression()?)
                } else {
                    None
                };
                // A chain `a if b if c …` nests to the left.
                value = parser.deeper(Expr::If(Box::new((test, value, otherwise))))?;
            }
            Ok(value)
        })
    }

    /// Counts an expression that nests without the parser doing so.
    fn deeper(&self, expression: Expr) -> Parsed<Expr> {
        let mut depth = self.depth;
        let mut inner = &expression;
        while let Expr::If(parts) = inner {
            depth += 1;
            inner = &parts.1;
        }
        if depth > NESTING {
            return self.fail(format!("the template nests more than {NESTING} deep"));
        }
        Ok(expression)
    }

    fn or(&mut self) -> Parsed<Expr> {
        self.joined("or", Self::and, Expr::Or)
    }

    fn and(&mut self) -> Parsed<Expr> {
        self.joined("and", Self::not, Expr::And)
    }

    fn joined(
        &mut self,
        name: &str,
        operand: fn(&mut Self) -> Parsed<Expr>,
        all: fn(Vec<Expr>) -> Expr,
    ) -> Parsed<Expr> {
        let first = operand(self)?;
        if !self.is_name(name) {
            return Ok(first);
        }
        let mut operands = vec![first];
        while self.skip_name(name) {
            operands.push(operand(self)?);
        }
        Ok(all(operands))
    }

    fn not(&mut self) -> Parsed<Expr> {
        if self.skip_name("not") {
            let negated = self.nested(Self::not)?;
            return Ok(Expr::Not(Box::new(negated)));
        }
        self.compare()
    }

    fn compare(&mut self) -> Parsed<Expr> {
        let first = self.sum()?;
        let mut others = Vec::new();
        loop {
            let sign = match &self.token().kind {
                Kind::Sign(sign @ ("==" | "!=" | "<" | "<=" | ">" | ">=")) => *sign,
                Kind::Name(name) if name == "in" => "in",
                Kind::Name(name) if name == "not" && *self.ahead() == Kind::Name("in".into()) => {
                    self.at += 1;
                    "not in"
                }
                _ => break,
            };
            self.at += 1;
            others.push((sign, self.sum()?));
        }
        if others.is_empty() {
            return Ok(first);
        }
        Ok(Expr::Compare(Box::new(first), others))
    }

    /// Operands with one of `signs` between them.
    fn math(
        &mut self,
        signs: &[&'static str],
        operand: fn(&mut Self) -> Parsed<Expr>,
    ) -> Parsed<Expr> {
        let first = operand(self)?;
        let mut others = Vec::new();
        while let Some(sign) = signs.iter().find(|sign| self.is_sign(sign)) {
            self.at += 1;
            others.push((*sign, operand(self)?));
        }
        if others.is_empty() {
            return Ok(first);
        }
        Ok(Expr::Math(Box::new(first), others))
    }

    fn sum(&mut self) -> Parsed<Expr> {
        self.math(&["+", "-"], Self::concat)
    }

    fn concat(&mut self) -> Parsed<Expr> {
        let first = self.product()?;
        if !self.is_sign("~") {
            return Ok(first);
        }
        let mut operands = vec![first];
        while self.skip_sign("~") {
            operands.push(self.product()?);
        }
        Ok(Expr::Concat(operands))
    }

    fn product(&mut self) -> Parsed<Expr> {
        self.math(&["*", "/", "//", "%"], Self::power)
    }

    fn power(&mut self) -> Parsed<Expr> {
        self.math(&["**"], |parser| parser.unary(true))
    }

    fn unary(&mut self, filters: bool) -> Parsed<Expr> {
        let inner = if self.is_sign("-") || self.is_sign("+") {
            let negative = self.is_sign("-");
            self.at += 1;
            let inner = self.nested(|parser| parser.unary(false))?;
            Expr::Sign(negative, Box::new(inner))
        } else {
            self.primary()?
        };
        let mut posts = Vec::new();
        self.postfix(&mut posts)?;
        if filters {
            loop {
                if self.is_sign("|") {
                    posts.extend(self.filters(false)?);
                } else if self.skip_name("is") {
                    posts.push(self.test()?);
                } else if self.is_sign("(") {
                    posts.push(Post::Call(self.arguments()?));
                } else {
                    break;
                }
            }
        }
        if posts.is_empty() {
            return Ok(inner);
        }
        Ok(Expr::Post(Box::new(inner), posts))
    }

    fn primary(&mut self) -> Parsed<Expr> {
        let expression = match &self.token().kind {
            Kind::Name(name) => match name.as_str() {
                "true" | "True" => Expr::Const(Value::Bool(true)),
                "false" | "False" => Expr::Const(Value::Bool(false)),
                "none" | "None" => Expr::Const(Value::None),
                name => {
                    if let Some(at) = SPECIAL.iter().position(|special| *special == name) {
                        let name = name.to_owned();
                        self.special[at] = true;
                        self.at += 1;
                        return Ok(Expr::Name(name));
                    }
                    Expr::Name(name.into())
                }
            },
            Kind::Str(text) => {
                let mut text = text.clone();
                while let Kind::Str(more) = self.ahead() {
                    text.push_str(more);
                    self.at += 1;
                }
                Expr::Const(Value::str(&text))
            }
            Kind::Int(number) => Expr::Const(Value::Int(*number)),
            Kind::Float(number) => Expr::Const(Value::Float(*number)),
            Kind::Sign("(") => {
                self.at += 1;
                let inner = if self.is_sign(")") {
                    Expr::Tuple(Vec::new())
                } else {
                    self.tuple(true, &[])?
                };
                self.expect_sign(")")?;
                return Ok(inner);
            }
            Kind::Sign("[") => {
                self.at += 1;
                let mut items = Vec::new();
                while !self.is_sign("]") {
                    items.push(self.expression()?);
                    if !self.is_sign("]") {
                        self.expect_sign(",")?;
                    }
                }
                self.at += 1;
                return Ok(Expr::List(items));
            }
            Kind::Sign("{") => {
                self.at += 1;
                let mut entries = Vec::new();
                while !self.is_sign("}") {
                    let key = self.expression()?;
                    self.expect_sign(":")?;
                    entries.push((key, self.expression()?));
                    if !self.is_sign("}") {
                        self.expect_sign(",")?;
                    }
                }
                self.at += 1;
                return Ok(Expr::Dict(entries));
            }
            _ => return self.fail(format!("unexpected {}", self.found())),
        };
        self.at += 1;
        Ok(expression)
    }

    fn postfix(&mut self, posts: &mut Vec<Post>) -> Parsed<()> {
        loop {
            if self.skip_sign(".") {
                let post = match &self.token().kind {
                    Kind::Name(name) => Post::Attribute(name.clone()),
                    Kind::Int(number) => Post::Item(Expr::Const(Value::Int(*number))),
                    _ => return self.fail("expected name or number"),
                };
                self.at += 1;
                posts.push(post);
            } else if self.skip_sign("[") {
                let post = self.subscript()?;
                posts.push(post);
            } else if self.is_sign("(") {
                posts.push(Post::Call(self.arguments()?));
            } else {
                return Ok(());
            }
        }
    }

    /// What is between brackets, and the closing one.
    fn subscript(&mut self) -> Parsed<Post> {
        let mut items = Vec::new();
        let mut parts = [None, None, None];
        let mut colons = 0;
        while !self.is_sign("]") {
            if self.skip_sign(":") {
                colons += 1;
                if colons > 2 || !items.is_empty() {
                    return self.fail("unexpected `:`");
                }
            } else if colons == 0 {
                items.push(self.expression()?);
                if self.is_sign(":") && items.len() == 1 {
                    parts[0] = items.pop();
                } else if !self.is_sign("]") {
                    self.expect_sign(",")?;
                }
            } else {
                if parts[colons].is_some() {
                    return self.fail(format!("unexpected {}", self.found()));
                }
                parts[colons] = Some(self.expression()?);
            }
        }
        self.at += 1;
        match (colons, items.len()) {
            (0, 1) => Ok(Post::Item(items.pop().unwrap_or(Expr::Tuple(Vec::new())))),
            (0, _) => Ok(Post::Item(Expr::Tuple(items))),
            _ => Ok(Post::Slice(parts)),
        }
    }

    fn arguments(&mut self) -> Parsed<Arguments> {
        self.expect_sign("(")?;
        let mut arguments = Arguments::default();
        while !self.is_sign(")") {
            let wrong = "invalid syntax for function call expression";
            if self.skip_sign("*") {
                if arguments.more.is_some() || arguments.more_named.is_some() {
                    return self.fail(wrong);
                }
                arguments.more = Some(self.expression()?);
            } else if self.skip_sign("**") {
                if arguments.more_named.is_some() {
                    return self.fail(wrong);
                }
                arguments.more_named = Some(self.expression()?);
            } else if matches!(self.token().kind, Kind::Name(_)) && *self.ahead() == Kind::Sign("=")
            {
                if arguments.more_named.is_some() {
                    return self.fail(wrong);
                }
                let name = self.any_name()?;
                self.at += 1;
                if arguments.named.iter().any(|(other, _)| *other == name) {
                    return self.fail(format!("keyword argument repeated: {name}"));
                }
                arguments.named.push((name, self.expression()?));
            } else {
                if arguments.more.is_some()
                    || arguments.more_named.is_some()
                    || !arguments.named.is_empty()
                {
                    return self.fail(wrong);
                }
                arguments.positional.push(self.expression()?);
            }
            if !self.is_sign(")") {
                self.expect_sign(",")?;
            }
        }
        self.at += 1;
        Ok(arguments)
    }

    /// A name that may have dots.
    fn dotted(&mut self) -> Parsed<String> {
        let mut name = self.any_name()?;
        while self.skip_sign(".") {
            name.push('.');
            name.push_str(&self.any_name()?);
        }
        Ok(name)
    }

    /// Filters, each behind a `|`; the first without one if `inline`.
    fn filters(&mut self, mut inline: bool) -> Parsed<Vec<Post>> {
        let mut filters = Vec::new();
        while std::mem::take(&mut inline) || self.skip_sign("|") {
            let name = self.dotted()?;
            let arguments = if self.is_sign("(") {
                self.arguments()?
            } else {
                Arguments::default()
            };
            filters.push(Post::Filter(name, arguments));
        }
        Ok(filters)
    }

    fn test(&mut self) -> Parsed<Post> {
        let negated = self.skip_name("not");
        let name = self.dotted()?;
        let mut arguments = Arguments::default();
        if self.is_sign("(") {
            arguments = self.arguments()?;
        } else if matches!(
            self.token().kind,
            Kind::Name(_) | Kind::Str(_) | Kind::Int(_) | Kind::Float(_) | Kind::Sign("[" | "{")
        ) && !["else", "or", "and"].iter().any(|name| self.is_name(name))
        {
            if self.is_name("is") {
                return self.fail("You cannot chain multiple tests with is");
            }
            let operand = self.primary()?;
            let mut posts = Vec::new();
            self.postfix(&mut posts)?;
            arguments.positional.push(if posts.is_empty() {
                operand
            } else {
                Expr::Post(Box::new(operand), posts)
            });
        }
        Ok(Post::Test(negated, name, arguments))
    }
}
