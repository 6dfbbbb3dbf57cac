//! A parsed but untyped document. The `kind` decides the type, so it must be read before the other fields.
//!
//! Deserialising from the tree reports the path of an invalid field, which streaming deserialisers cannot.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor},
    forward_to_deserialize_any,
};

#[derive(Clone, Debug, PartialEq)]
pub enum Tree<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Cow<'a, str>),
    List(Vec<Tree<'a>>),
    Map(Vec<(Cow<'a, str>, Tree<'a>)>),
}

impl<'a> Tree<'a> {
    pub fn get(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Map(fields) => fields.iter().find(|(key, _)| key == name).map(|(_, value)| value),
            Self::Null | Self::Bool(_) | Self::Int(_) | Self::Float(_) | Self::Text(_) | Self::List(_) => {
                None
            }
        }
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        if let Self::Text(text) = self.get(name)? { Some(text) } else { None }
    }

    /// Removes and returns the elements of a list field.
    pub fn take_list(&mut self, name: &str) -> Option<Vec<Tree<'a>>> {
        let Self::Map(fields) = self else { return None };
        let (_, value) = fields.iter_mut().find(|(key, _)| key == name)?;
        match std::mem::replace(value, Self::Null) {
            Self::List(elements) => Some(elements),
            Self::Null => Some(Vec::new()),
            Self::Bool(_) | Self::Int(_) | Self::Float(_) | Self::Text(_) | Self::Map(_) => None,
        }
    }

    pub fn typed<T: Deserialize<'a>>(self) -> Result<T, TypeError> {
        T::deserialize(self)
    }
}

/// A value of the wrong type, and the path of its field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeError {
    path: String,
    message: String,
}

impl TypeError {
    fn below(mut self, step: &str) -> Self {
        let separator = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path = format!("{step}{separator}{}", self.path);
        self
    }
}

impl fmt::Display for TypeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.path, self.message)
        }
    }
}

impl std::error::Error for TypeError {}

impl de::Error for TypeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { path: String::new(), message: message.to_string() }
    }
}

impl<'de> Deserializer<'de> for Tree<'de> {
    type Error = TypeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeError> {
        match self {
            Self::Null => visitor.visit_unit(),
            Self::Bool(value) => visitor.visit_bool(value),
            Self::Int(value) => visitor.visit_i64(value),
            Self::Float(value) => visitor.visit_f64(value),
            Self::Text(Cow::Borrowed(text)) => visitor.visit_borrowed_str(text),
            Self::Text(Cow::Owned(text)) => visitor.visit_string(text),
            Self::List(elements) => visitor.visit_seq(Elements { elements: elements.into_iter(), n: 0 }),
            Self::Map(fields) => visitor.visit_map(Fields { fields: fields.into_iter(), current: None }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeError> {
        if self == Self::Null { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, TypeError> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

struct Elements<'a> {
    elements: std::vec::IntoIter<Tree<'a>>,
    n: usize,
}

impl<'de> SeqAccess<'de> for Elements<'de> {
    type Error = TypeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, TypeError> {
        let Some(element) = self.elements.next() else { return Ok(None) };
        let n = self.n;
        self.n += 1;
        seed.deserialize(element).map(Some).map_err(|error| error.below(&format!("[{n}]")))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.elements.len())
    }
}

struct Fields<'a> {
    fields: std::vec::IntoIter<(Cow<'a, str>, Tree<'a>)>,
    current: Option<(Cow<'a, str>, Tree<'a>)>,
}

impl<'de> MapAccess<'de> for Fields<'de> {
    type Error = TypeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, TypeError> {
        self.current = self.fields.next();
        let Some((name, _)) = &self.current else { return Ok(None) };
        seed.deserialize(Tree::Text(name.clone())).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, TypeError> {
        let (name, value) =
            self.current.take().ok_or_else(|| de::Error::custom("a value was requested before its key"))?;
        seed.deserialize(value).map_err(|error| error.below(&name))
    }
}

impl<'de> Deserialize<'de> for Tree<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a document of plain data")
    }

    fn visit_unit<E>(self) -> Result<Tree<'de>, E> {
        Ok(Tree::Null)
    }

    fn visit_none<E>(self) -> Result<Tree<'de>, E> {
        Ok(Tree::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree<'de>, D::Error> {
        Tree::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree<'de>, E> {
        Ok(Tree::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree<'de>, E> {
        Ok(Tree::Int(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Tree<'de>, E> {
        // No field in use is that large. The conversion only keeps the rest of the object readable.
        Ok(i64::try_from(value).map_or(Tree::Float(value as f64), Tree::Int))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Tree<'de>, E> {
        Ok(Tree::Float(value))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Tree<'de>, E> {
        Ok(Tree::Text(text.into()))
    }

    fn visit_str<E>(self, text: &str) -> Result<Tree<'de>, E> {
        Ok(Tree::Text(text.to_owned().into()))
    }

    fn visit_string<E>(self, text: String) -> Result<Tree<'de>, E> {
        Ok(Tree::Text(text.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Tree<'de>, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = seq.next_element()? {
            elements.push(element);
        }
        Ok(Tree::List(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree<'de>, A::Error> {
        let mut fields: Vec<(Cow<'de, str>, Tree<'de>)> = Vec::new();
        while let Some(key) = map.next_key::<Tree<'de>>()? {
            let key = field_name(key)?;
            if fields.iter().any(|(other, _)| *other == key) {
                return Err(de::Error::custom(format!("duplicate field `{key}`")));
            }
            fields.push((key, map.next_value()?));
        }
        Ok(Tree::Map(fields))
    }
}

/// Converts a key to a name. As in JSON, a key that YAML reads as a number or boolean is a name.
fn field_name<E: de::Error>(key: Tree<'_>) -> Result<Cow<'_, str>, E> {
    match key {
        Tree::Text(text) => Ok(text),
        Tree::Bool(value) => Ok(value.to_string().into()),
        Tree::Int(value) => Ok(value.to_string().into()),
        Tree::Float(value) => Ok(value.to_string().into()),
        Tree::Null => Ok("null".into()),
        Tree::List(_) | Tree::Map(_) => Err(E::custom("a key must be a name")),
    }
}
