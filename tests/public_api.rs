//! The public API changes on purpose only: `tests/public_api.txt` lists it, one item a line.
//!
//! The list is made from the sources with every feature on, so it is the same on every machine and
//! with every toolchain. After a change that is meant:
//!
//! ```text
//! UPDATE_PUBLIC_API=1 cargo test --test public_api
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use syn::spanned::Spanned;
use syn::{
    Attribute, Expr, Fields, ImplItem, Item, ItemImpl, Lit, Meta, Type, UseTree, Visibility,
};

const LIST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/public_api.txt");

#[test]
fn the_public_api_is_the_one_that_is_listed() {
    let mut items = Crates::read().public();
    items.sort_by(|a, b| (&a.path, &a.line).cmp(&(&b.path, &b.line)));
    if std::env::var_os("UPDATE_PUBLIC_API").is_some() {
        let text: String = items
            .iter()
            .map(|item| format!("{}\n", item.line))
            .collect();
        fs::write(LIST, text).unwrap();
        return;
    }
    let lines: BTreeSet<_> = items.iter().map(|item| item.line.as_str()).collect();
    let listed = fs::read_to_string(LIST).unwrap_or_default();
    let listed: BTreeSet<_> = listed.lines().collect();
    let removed = listed.difference(&lines).map(|line| format!("-{line}\n"));
    let added = lines.difference(&listed).map(|line| format!("+{line}\n"));
    let difference: String = removed.chain(added).collect();
    assert!(
        difference.is_empty(),
        "the public API has changed:\n{difference}\
         If that is meant: UPDATE_PUBLIC_API=1 cargo test --test public_api"
    );
}

#[test]
fn every_type_has_an_example_or_a_link_to_one() {
    let items = Crates::read().public();
    let pages = items.iter().filter(|item| item.docs.is_some());
    let with_example = pages.clone().filter(|item| has_example(item));
    let with_example: BTreeSet<_> = with_example.map(Public::name).collect();
    let has_link = |item: &Public| links(item).any(|name| with_example.contains(name));
    let without = pages
        .clone()
        .filter(|item| item.is_type && !with_example.contains(item.name()) && !has_link(item));
    let without: Vec<_> = without.map(|item| item.line.as_str()).collect();
    println!(
        "{} items, {} of them types, functions, constants and macros; {} have an example",
        items.len(),
        pages.count(),
        with_example.len(),
    );
    assert!(
        without.is_empty(),
        "{} types without an example, and without a line `Example: [`NAME`].`:\n{}",
        without.len(),
        without.join("\n")
    );
}

#[test]
fn every_item_has_one_path() {
    let mut paths = BTreeMap::<_, Vec<_>>::new();
    for item in Crates::read().public() {
        if let Some(home) = item.home {
            paths.entry(home).or_default().push(item.path);
        }
    }
    paths.retain(|_, paths| paths.len() > 1);
    assert!(paths.is_empty(), "items by several paths: {paths:#?}");
}

/// Whether there is an example, compiled as a test, in the docs of an item or of its parts.
fn has_example(item: &Public) -> bool {
    let mut is_open = false;
    for line in item.docs.iter().flat_map(|docs| docs.lines()) {
        let Some(kind) = line.trim().strip_prefix("```") else {
            continue;
        };
        if !is_open && !kind.starts_with("text") && !kind.starts_with("ignore") {
            return true;
        }
        is_open = !is_open;
    }
    false
}

/// The names after `Example:` in the docs of an item.
fn links(item: &Public) -> impl Iterator<Item = &str> {
    let lines = item.docs.iter().flat_map(|docs| docs.lines());
    let links = lines.filter_map(|line| line.trim().strip_prefix("Example:"));
    let names = links.flat_map(|rest| rest.split('`').skip(1).step_by(2));
    names.map(|path| path.split("::").next().unwrap_or_default())
}

/// An item of the API.
struct Public {
    /// As it is listed: kind, path, and what follows the name in the source.
    line: String,
    path: String,
    /// Where it is defined. `None` for what belongs to another item: methods, fields, variants.
    home: Option<String>,
    /// The docs of what rustdoc makes a page of its own for: its own, and those of its parts.
    docs: Option<String>,
    /// Whether it is a type or a trait, and not a function or a constant.
    is_type: bool,
}

impl Public {
    fn name(&self) -> &str {
        self.path.rsplit("::").next().unwrap_or_default()
    }
}

/// The path of a module or an item, the crate first.
type Names = Vec<String>;

/// The sources of the two crates.
#[derive(Default)]
struct Crates {
    /// The items of every module.
    modules: BTreeMap<Names, Vec<Item>>,
}

impl Crates {
    fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut crates = Crates::default();
        for (name, file) in [
            ("pocketlm", "src/lib.rs"),
            ("pocketlm_kernels", "kernels/src/lib.rs"),
        ] {
            let items = parse(&root.join(file));
            let folder = root.join(file).parent().unwrap().to_owned();
            crates.add(vec![name.to_owned()], items, &folder);
        }
        crates
    }

    /// Takes up a module whose children are in `folder`.
    fn add(&mut self, path: Names, items: Vec<Item>, folder: &Path) {
        for item in &items {
            let Item::Mod(module) = item else { continue };
            let name = module.ident.to_string();
            let mut child = path.clone();
            child.push(name.clone());
            let below = folder.join(&name);
            if is_for_tests(&module.attrs) {
                continue;
            }
            if let Some((_, items)) = &module.content {
                self.add(child, items.clone(), &below);
                continue;
            }
            let files = [folder.join(format!("{name}.rs")), below.join("mod.rs")];
            // A module that has another file on each target holds nothing public.
            if let Some(file) = files.iter().find(|file| file.exists()) {
                self.add(child, parse(file), &below);
            }
        }
        self.modules.insert(path, items);
    }

    fn public(&self) -> Vec<Public> {
        let mut items = Vec::new();
        for name in ["pocketlm", "pocketlm_kernels"] {
            self.public_in(&vec![name.to_owned()], &vec![name.to_owned()], &mut items);
        }
        items
    }

    /// Lists what the module `from` makes public, as part of the public module `module`.
    fn public_in(&self, from: &Names, module: &Names, items: &mut Vec<Public>) {
        for item in self.modules.get(from).into_iter().flatten() {
            match item {
                Item::Mod(child) if is_public(&child.vis, &child.attrs) => {
                    let name = child.ident.to_string();
                    let child_from = join(from, &name);
                    let path = join(module, &name);
                    items.push(part(format!("mod {}", path.join("::"))));
                    self.public_in(&child_from, &path, items);
                }
                Item::Use(item) if is_public(&item.vis, &item.attrs) => {
                    for (path, name) in leaves(&item.tree) {
                        self.reexport(from, &path, &name, module, items);
                    }
                }
                Item::Macro(item) => {
                    let exported = item.attrs.iter().any(|a| a.path().is_ident("macro_export"));
                    if let Some(name) = item.ident.as_ref().filter(|_| exported) {
                        let docs = Some(docs(&item.attrs));
                        let line = format!("macro {}::{name}!", from[0]);
                        items.push(Public { docs, ..part(line) });
                    }
                }
                _ => self.define(from, item, module, items),
            }
        }
    }

    /// Lists `pub use path as name`.
    fn reexport(
        &self,
        from: &Names,
        path: &[String],
        name: &str,
        module: &Names,
        items: &mut Vec<Public>,
    ) {
        let public = join(module, name).join("::");
        if name == "*" {
            let target = self.absolute(from, path);
            return self.public_in(&target, module, items);
        }
        match self.find(from, path) {
            // Once at home is enough.
            Some((home, item)) if home[0] == module[0] => self.define(&home, item, module, items),
            Some((home, _)) => {
                let home = home[0].clone() + "::" + path.last().unwrap();
                let line = format!("use {public} = {home}");
                items.push(Public {
                    home: Some(home),
                    ..part(line)
                });
            }
            None => panic!("{public}: its definition is not found"),
        }
    }

    /// The module that a path leads to, as seen from the module `from`.
    fn absolute(&self, from: &Names, path: &[String]) -> Names {
        let (mut base, rest) = match path.first().map(String::as_str) {
            Some("crate") => (vec![from[0].clone()], &path[1..]),
            Some("self") => (from.clone(), &path[1..]),
            Some("pocketlm_kernels") => (vec![path[0].clone()], &path[1..]),
            _ => (from.clone(), path),
        };
        for part in rest {
            if part == "super" {
                base.pop();
            } else {
                base.push(part.clone());
            }
        }
        base
    }

    /// The definition that a path leads to, and its module.
    fn find(&self, from: &Names, path: &[String]) -> Option<(Names, &Item)> {
        let (name, parents) = path.split_last()?;
        let module = self.absolute(from, parents);
        let items = self.modules.get(&module)?;
        if let Some(item) = items.iter().find(|item| defines(item, name)) {
            return Some((module, item));
        }
        for item in items {
            let Item::Use(item) = item else { continue };
            for (path, leaf) in leaves(&item.tree) {
                if leaf == *name
                    && let Some(found) = self.find(&module, &path)
                {
                    return Some(found);
                }
            }
        }
        None
    }

    /// Lists an item that is defined in the module `home` and public in `module`.
    fn define(&self, home: &Names, item: &Item, module: &Names, items: &mut Vec<Public>) {
        let Some((visibility, attributes, name)) = head(item) else {
            return;
        };
        if !is_public(visibility, attributes) {
            return;
        }
        let path = join(module, &name).join("::");
        let mut docs = docs(attributes);
        let mut parts = Vec::new();
        let line = match item {
            Item::Struct(item) => {
                for (index, field) in item.fields.iter().enumerate() {
                    if is_public(&field.vis, &field.attrs) {
                        let name = field.ident.as_ref().map(|name| name.to_string());
                        let name = name.unwrap_or_else(|| index.to_string());
                        docs += &self::docs(&field.attrs);
                        parts.push(format!("field {path}::{name}: {}", source(&field.ty)));
                    }
                }
                format!("struct {path}{}", source(&item.generics))
            }
            Item::Enum(item) => {
                for variant in &item.variants {
                    docs += &self::docs(&variant.attrs);
                    parts.push(format!("variant {path}::{}", bare(variant)));
                }
                format!("enum {path}{}", source(&item.generics))
            }
            Item::Trait(item) => {
                for part in &item.items {
                    if let syn::TraitItem::Fn(function) = part {
                        docs += &self::docs(&function.attrs);
                        parts.push(function_line(&path, &function.sig));
                    }
                }
                format!("trait {path}{}", source(&item.generics))
            }
            Item::Fn(item) => function_line(&join(module, "").join("::"), &item.sig),
            Item::Const(item) => format!("const {path}: {}", source(&item.ty)),
            Item::Static(item) => format!("static {path}: {}", source(&item.ty)),
            Item::Type(item) => format!("type {path} = {}", source(&item.ty)),
            _ => unreachable!("`head` knows it"),
        };
        let is_type = matches!(item, Item::Struct(_) | Item::Enum(_) | Item::Trait(_));
        if is_type {
            self.implementations(home, &name, &path, &mut docs, &mut parts);
        }
        parts.extend(derives(attributes).map(|name| format!("impl {name} for {path}")));
        items.push(Public {
            home: Some(join(home, &name).join("::")),
            docs: Some(docs),
            is_type,
            ..part(line)
        });
        items.extend(parts.into_iter().map(part));
    }

    /// Lists the methods of the type `name` of the module `home`, and the traits that it has.
    fn implementations(
        &self,
        home: &Names,
        name: &str,
        path: &str,
        docs: &mut String,
        parts: &mut Vec<String>,
    ) {
        for (module, items) in &self.modules {
            if module[0] != home[0] {
                continue;
            }
            for item in items {
                let Item::Impl(item) = item else { continue };
                if self_type(item).is_some_and(|own| own.last().unwrap() == name)
                    && let Some((found, _)) = self.find(module, &self_type(item).unwrap())
                    && found == *home
                    && !is_for_tests(&item.attrs)
                {
                    members(item, path, docs, parts);
                }
            }
        }
    }
}

/// Lists what an `impl` adds to a type.
fn members(item: &ItemImpl, path: &str, docs: &mut String, parts: &mut Vec<String>) {
    if let Some((of, _)) = &item.trait_ {
        if !hidden(&item.attrs) {
            parts.push(format!("impl {} for {path}", source(of)));
        }
        return;
    }
    for member in &item.items {
        match member {
            ImplItem::Fn(function) if is_public(&function.vis, &function.attrs) => {
                *docs += &self::docs(&function.attrs);
                parts.push(function_line(path, &function.sig));
            }
            ImplItem::Const(constant) if is_public(&constant.vis, &constant.attrs) => {
                *docs += &self::docs(&constant.attrs);
                let ty = source(&constant.ty);
                parts.push(format!("const {path}::{}: {ty}", constant.ident));
            }
            _ => {}
        }
    }
}

fn parse(file: &Path) -> Vec<Item> {
    let text = fs::read_to_string(file).unwrap();
    let parsed =
        syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    parsed.items
}

/// A part of an item.
fn part(line: String) -> Public {
    let path = path_in(&line).to_owned();
    let (home, docs, is_type) = (None, None, false);
    Public {
        line,
        path,
        home,
        docs,
        is_type,
    }
}

/// The path in a line: `kind path…`, or `impl Trait for path`.
fn path_in(line: &str) -> &str {
    let start = if line.starts_with("impl ") {
        line.rfind("pocketlm")
    } else {
        line.find("pocketlm")
    };
    let rest = &line[start.unwrap_or_default()..];
    let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
    rest[..end.unwrap_or(rest.len())].trim_end_matches(':')
}

fn join(path: &Names, name: &str) -> Names {
    let mut path = path.clone();
    path.push(name.to_owned());
    path
}

/// The source text of a part, on one line.
fn source(part: &impl Spanned) -> String {
    let text = part.span().source_text().unwrap_or_default();
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.replace("( ", "(")
        .replace(", )", ")")
        .replace(",)", ")")
}

/// A variant without its docs and attributes.
fn bare(variant: &syn::Variant) -> String {
    match &variant.fields {
        Fields::Unit => variant.ident.to_string(),
        Fields::Unnamed(fields) => {
            let types: Vec<_> = fields
                .unnamed
                .iter()
                .map(|field| source(&field.ty))
                .collect();
            format!("{}({})", variant.ident, types.join(", "))
        }
        Fields::Named(fields) => {
            let fields = fields.named.iter();
            let fields =
                fields.map(|f| format!("{}: {}", f.ident.as_ref().unwrap(), source(&f.ty)));
            let fields: Vec<_> = fields.collect();
            format!("{} {{ {} }}", variant.ident, fields.join(", "))
        }
    }
}

/// A function as `const fn path::name(arguments) -> result`.
fn function_line(path: &str, signature: &syn::Signature) -> String {
    let text = source(signature);
    let (before, after) = text.split_once("fn ").unwrap();
    let path = path.trim_end_matches("::");
    format!("{before}fn {path}::{after}")
}

/// Visibility, attributes and name of what can be public by itself.
fn head(item: &Item) -> Option<(&Visibility, &[Attribute], String)> {
    Some(match item {
        Item::Struct(item) => (&item.vis, &item.attrs, item.ident.to_string()),
        Item::Enum(item) => (&item.vis, &item.attrs, item.ident.to_string()),
        Item::Trait(item) => (&item.vis, &item.attrs, item.ident.to_string()),
        Item::Fn(item) => (&item.vis, &item.attrs, item.sig.ident.to_string()),
        Item::Const(item) => (&item.vis, &item.attrs, item.ident.to_string()),
        Item::Static(item) => (&item.vis, &item.attrs, item.ident.to_string()),
        Item::Type(item) => (&item.vis, &item.attrs, item.ident.to_string()),
        _ => return None,
    })
}

fn defines(item: &Item, name: &str) -> bool {
    head(item).is_some_and(|(.., own)| own == name)
}

fn is_public(visibility: &Visibility, attributes: &[Attribute]) -> bool {
    matches!(visibility, Visibility::Public(_)) && !hidden(attributes) && !is_for_tests(attributes)
}

fn hidden(attributes: &[Attribute]) -> bool {
    attribute_texts(attributes).any(|text| text == "doc(hidden)")
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    attribute_texts(attributes).any(|text| text == "cfg(test)" || text == "cfg(doctest)")
}

fn attribute_texts(attributes: &[Attribute]) -> impl Iterator<Item = String> {
    attributes.iter().map(|attribute| source(&attribute.meta))
}

/// The traits that an item derives, on every target and with any feature.
fn derives(attributes: &[Attribute]) -> impl Iterator<Item = String> {
    let lists = attribute_texts(attributes).filter_map(|text| {
        let list = text.split_once("derive(")?.1.split_once(')')?.0.to_owned();
        Some(list)
    });
    let names = lists.flat_map(|list| {
        let names: Vec<_> = list.split(',').map(|name| name.trim().to_owned()).collect();
        names
    });
    names.filter(|name| !name.is_empty())
}

/// The doc comments of an item.
fn docs(attributes: &[Attribute]) -> String {
    let mut text = String::new();
    for attribute in attributes {
        if let Meta::NameValue(meta) = &attribute.meta
            && meta.path.is_ident("doc")
            && let Expr::Lit(value) = &meta.value
            && let Lit::Str(line) = &value.lit
        {
            text += &line.value();
            text += "\n";
        }
    }
    text
}

/// The path of the type that an `impl` is for.
fn self_type(item: &ItemImpl) -> Option<Names> {
    let Type::Path(own) = &*item.self_ty else {
        return None;
    };
    let parts = own.path.segments.iter();
    Some(parts.map(|part| part.ident.to_string()).collect())
}

/// Every name that a `use` declares, with the path it stands for. A glob is called `*`.
fn leaves(tree: &UseTree) -> Vec<(Names, String)> {
    let mut found = Vec::new();
    let mut open = vec![(Vec::new(), tree)];
    while let Some((path, tree)) = open.pop() {
        match tree {
            UseTree::Path(part) => open.push((join(&path, &part.ident.to_string()), &part.tree)),
            UseTree::Group(group) => {
                open.extend(group.items.iter().map(|tree| (path.clone(), tree)))
            }
            UseTree::Name(name) => {
                let name = name.ident.to_string();
                found.push((join(&path, &name), name));
            }
            UseTree::Rename(name) => {
                found.push((
                    join(&path, &name.ident.to_string()),
                    name.rename.to_string(),
                ));
            }
            UseTree::Glob(_) => found.push((path, "*".to_owned())),
        }
    }
    found
}
