//! Parses expressions.

use std::prelude::rust_2024::*;

use super::{NESTING, Parsed, Parser, SPECIAL};
use crate::template::lexer::Kind;
use crate::template::tree::{Arguments, Expr, Post};
use crate::template::value::Value;

impl Parser {
    /// An expression, or several with commas, which are a tuple.
    pub(super) fn tuple(&mut self, conditional: bool, ends: &[&str]) -> Parsed<Expr> {
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

    pub(super) fn expression(&mut self) -> Parsed<Expr> {
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
            Kind::Sign("[") => return self.list(),
            Kind::Sign("{") => return self.dict(),
            _ => return self.fail(format!("unexpected {}", self.found())),
        };
        self.at += 1;
        Ok(expression)
    }

    fn list(&mut self) -> Parsed<Expr> {
        self.at += 1;
        let mut items = Vec::new();
        while !self.is_sign("]") {
            items.push(self.expression()?);
            if !self.is_sign("]") {
                self.expect_sign(",")?;
            }
        }
        self.at += 1;
        Ok(Expr::List(items))
    }

    fn dict(&mut self) -> Parsed<Expr> {
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
        Ok(Expr::Dict(entries))
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

    /// The subscript between brackets, and the closing bracket.
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
    pub(super) fn filters(&mut self, mut inline: bool) -> Parsed<Vec<Post>> {
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
