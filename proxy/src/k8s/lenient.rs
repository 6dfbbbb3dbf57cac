//! Lenient reading of objects, as by Go's decoder: only the fields in use are read. Null is absent, unknown and unused
//! fields are skipped whatever their type, and a field in use of the wrong type costs no more than itself.
//!
//! text → the fields in use ([`shapes`]), each of its type → the typed object. `managedFields` alone is often larger than
//! the rest of an object: unused fields are not even allocated.

use std::{fmt, slice};

use serde::{
    Deserializer,
    de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::{
    object::{Kind, Object},
    tree::{Tree, TypeError},
};

pub mod shapes;

use shapes::{Field, Shape};

/// An object with the fields in use.
#[derive(Debug)]
pub struct Lenient {
    pub namespace: String,
    pub name: String,
    /// The resourceVersion, which orders the states of an object; 0 if it is missing.
    pub version: u64,
    /// `None`: a field without which nothing is left to serve is of the wrong type, or the object is no structure.
    pub object: Option<Object>,
    /// Fields in use with a value of the wrong type, with their paths. They are treated as absent.
    pub faults: Vec<String>,
}

/// Reads an object of a kind. Errors: the text is malformed.
pub fn read<'de, D: Deserializer<'de>>(kind: Kind, source: D) -> Result<Lenient, D::Error> {
    let (tree, faults) = fields_in_use(shapes::of(kind), source)?;
    let mut read = Lenient::of_metadata(&tree);
    let is_whole = matches!(tree, Tree::Map(_)) && !faults.has_lost_essential;
    match typed(kind, tree) {
        Ok(object) => read.object = Some(object).filter(|_| is_whole),
        Err(error) => return Err(de::Error::custom(error)),
    }
    read.faults = faults.found;
    Ok(read)
}

/// Reads namespace, name and version only.
pub fn metadata<'de, D: Deserializer<'de>>(source: D) -> Result<Lenient, D::Error> {
    let (tree, _) = fields_in_use(&shapes::NAMED, source)?;
    Ok(Lenient::of_metadata(&tree))
}

impl Lenient {
    fn of_metadata(tree: &Tree<'_>) -> Self {
        let metadata = tree.get("metadata");
        let text = |name| metadata.and_then(|metadata| metadata.text(name)).unwrap_or_default();
        Self {
            namespace: text("namespace").to_owned(),
            name: text("name").to_owned(),
            version: text("resourceVersion").parse().unwrap_or_default(),
            object: None,
            faults: Vec::new(),
        }
    }
}

fn typed(kind: Kind, tree: Tree<'_>) -> Result<Object, TypeError> {
    Ok(match kind {
        Kind::Service => Object::Service(Box::new(tree.typed()?)),
        Kind::EndpointSlice => Object::EndpointSlice(Box::new(tree.typed()?)),
        Kind::Endpoints => Object::Endpoints(Box::new(tree.typed()?)),
        Kind::Node => Object::Node(Box::new(tree.typed()?)),
        Kind::ServiceCidr => Object::ServiceCidr(Box::new(tree.typed()?)),
        Kind::Namespace => Object::Namespace(Box::new(tree.typed()?)),
        Kind::Pod => Object::Pod(Box::new(tree.typed()?)),
        Kind::ServiceImport => Object::ServiceImport(Box::new(tree.typed()?)),
    })
}

fn fields_in_use<'de, D: Deserializer<'de>>(
    shape: &'static Shape,
    source: D,
) -> Result<(Tree<'de>, Faults), D::Error> {
    let mut faults = Faults::default();
    let tree = Value { shape, faults: &mut faults }.deserialize(source)?;
    Ok((if tree == Tree::Null { Tree::Map(Vec::new()) } else { tree }, faults))
}

#[derive(Default)]
struct Faults {
    /// The path to the current value.
    path: Vec<Step>,
    found: Vec<String>,
    /// An essential field is of the wrong type.
    has_lost_essential: bool,
}

/// A step of a path.
enum Step {
    Field(&'static str),
    /// An entry of a map with arbitrary names.
    Entry(String),
    Element(usize),
}

impl Faults {
    /// Whether without the current field nothing is left to serve, or it would be open to all clients. To treat it as absent would stop a Service because of
    /// one mistake; the last known state stays instead, as with an invalid address.
    fn is_essential(&self) -> bool {
        use Step::Field;
        matches!(
            *self.path,
            [] | [Field("spec" | "addressType" | "endpoints" | "ports" | "subsets")]
                | [Field("spec"), Field("clusterIP" | "ports" | "loadBalancerSourceRanges")]
        )
    }

    fn add(&mut self, message: fmt::Arguments<'_>) {
        let mut path = String::new();
        for step in &self.path {
            match step {
                Step::Field(name) if path.is_empty() => path += name,
                Step::Field(name) => path += &format!(".{name}"),
                Step::Entry(name) => path += &format!("[{name}]"),
                Step::Element(n) => path += &format!("[{n}]"),
            }
        }
        self.has_lost_essential |= self.is_essential();
        let separator = if path.is_empty() { "" } else { ": " };
        self.found.push(format!("{path}{separator}{message}"));
    }
}

/// The seed of a value of a known shape. The result is `Null` for a value of another type.
struct Value<'r> {
    shape: &'static Shape,
    faults: &'r mut Faults,
}

impl Value<'_> {
    fn wrong<'de, E>(self, found: &str) -> Result<Tree<'de>, E> {
        self.faults.add(format_args!("expected {}, found {found}", self.shape.describe()));
        Ok(Tree::Null)
    }

    fn text<'de, E>(self, text: Tree<'de>) -> Result<Tree<'de>, E> {
        match (self.shape, &text) {
            (Shape::Text, _) => Ok(text),
            (Shape::Time, Tree::Text(value)) if value.parse::<jiff::Timestamp>().is_ok() => Ok(text),
            (Shape::Time, _) => self.wrong("another text"),
            (Shape::Int | Shape::Bool | Shape::List(_) | Shape::Texts | Shape::Fields(_), _) => {
                self.wrong("text")
            }
        }
    }

    fn structure<'de, A: MapAccess<'de>>(
        self,
        fields: &'static [Field],
        mut map: A,
    ) -> Result<Tree<'de>, A::Error> {
        let mut read: Vec<(_, Tree<'de>)> = Vec::with_capacity(fields.len().min(8));
        while let Some(field) = map.next_key_seed(Key(fields))? {
            let Some((name, shape)) = field else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            self.faults.path.push(Step::Field(name));
            let value = map.next_value_seed(Value { shape, faults: &mut *self.faults })?;
            self.faults.path.pop();
            // Of duplicate fields the last one counts.
            read.retain(|(other, _)| *other != *name);
            if value != Tree::Null {
                read.push(((*name).into(), value));
            }
        }
        Ok(Tree::Map(read))
    }

    fn texts<'de, A: MapAccess<'de>>(self, mut map: A) -> Result<Tree<'de>, A::Error> {
        let mut read = Vec::new();
        while let Some(key) = map.next_key::<Tree<'de>>()? {
            let Tree::Text(name) = key else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            self.faults.path.push(Step::Entry(name.clone().into_owned()));
            let value = map.next_value_seed(Value { shape: &Shape::Text, faults: &mut *self.faults })?;
            self.faults.path.pop();
            if value != Tree::Null {
                read.push((name, value));
            }
        }
        Ok(Tree::Map(read))
    }
}

impl<'de> DeserializeSeed<'de> for Value<'_> {
    type Value = Tree<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_> {
    type Value = Tree<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("plain data")
    }

    fn visit_unit<E>(self) -> Result<Tree<'de>, E> {
        Ok(Tree::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree<'de>, E> {
        if matches!(self.shape, Shape::Bool) { Ok(Tree::Bool(value)) } else { self.wrong("a boolean") }
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree<'de>, E> {
        match self.shape {
            Shape::Int if i32::try_from(value).is_ok() => Ok(Tree::Int(value)),
            Shape::Int
            | Shape::Bool
            | Shape::Text
            | Shape::Time
            | Shape::Texts
            | Shape::List(_)
            | Shape::Fields(_) => self.wrong("another number"),
        }
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Tree<'de>, E> {
        match i64::try_from(value) {
            Ok(value) => self.visit_i64(value),
            Err(_) => self.wrong("another number"),
        }
    }

    fn visit_f64<E>(self, _: f64) -> Result<Tree<'de>, E> {
        self.wrong("another number")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Tree<'de>, E> {
        self.text(Tree::Text(text.into()))
    }

    fn visit_str<E>(self, text: &str) -> Result<Tree<'de>, E> {
        self.text(Tree::Text(text.to_owned().into()))
    }

    fn visit_string<E>(self, text: String) -> Result<Tree<'de>, E> {
        self.text(Tree::Text(text.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Tree<'de>, A::Error> {
        let Shape::List(shape) = self.shape else {
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            return self.wrong("a list");
        };
        let mut elements = Vec::new();
        loop {
            self.faults.path.push(Step::Element(elements.len()));
            let element = seq.next_element_seed(Value { shape, faults: &mut *self.faults })?;
            self.faults.path.pop();
            match element {
                // The element keeps its place, with Go's zero value: other lists refer to it by its index.
                Some(Tree::Null) => elements.push(shape.zero()),
                Some(element) => elements.push(element),
                None => return Ok(Tree::List(elements)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree<'de>, A::Error> {
        match self.shape {
            Shape::Fields(fields) => self.structure(fields, map),
            Shape::Texts => self.texts(map),
            Shape::Text | Shape::Time | Shape::Int | Shape::Bool | Shape::List(_) => {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                self.wrong("a structure")
            }
        }
    }
}

/// The seed of a field's name: the field in use that has it.
struct Key(&'static [Field]);

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Option<&'static Field>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key {
    type Value = Option<&'static Field>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        let mut fields: slice::Iter<'static, Field> = self.0.iter();
        Ok(fields.find(|(field, _)| *field == name))
    }
}

#[cfg(test)]
mod tests;
