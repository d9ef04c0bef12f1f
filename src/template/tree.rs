//! The tree of a parsed template.

use std::prelude::rust_2024::*;

use super::text::Text;
use super::value::Value;

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
    /// Whether the body uses `varargs`, `kwargs` and `caller`: only then are they accepted.
    pub(super) special: [bool; 3],
}

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

/// A part that follows an expression.
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
