//! Finds the NaN or infinity that JSON would turn into `null`.

use serde::ser::{self, Serialize};

use crate::BoxError;

/// # Errors
///
/// Names the first number of `value` that JSON cannot hold.
pub(super) fn check<T: Serialize + ?Sized>(value: &T) -> Result<(), BoxError> {
    Ok(value.serialize(Finite)?)
}

/// A serializer that writes nothing and refuses numbers that are not finite.
#[derive(Clone, Copy)]
struct Finite;

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct NotFinite(String);

impl ser::Error for NotFinite {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

type Checked = Result<(), NotFinite>;

fn float(value: f64) -> Checked {
    if value.is_finite() {
        return Ok(());
    }
    Err(NotFinite(format!("{value} is not a number that JSON can hold; use an Option or an integer")))
}

macro_rules! fine { ($($name:ident($($kind:ty),*);)+) => { $(
    fn $name(self, $(_: $kind),*) -> Checked {
        Ok(())
    }
)+ } }

impl ser::Serializer for Finite {
    type Ok = ();
    type Error = NotFinite;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    fine! {
        serialize_bool(bool);
        serialize_i8(i8); serialize_i16(i16); serialize_i32(i32); serialize_i64(i64); serialize_i128(i128);
        serialize_u8(u8); serialize_u16(u16); serialize_u32(u32); serialize_u64(u64); serialize_u128(u128);
        serialize_char(char); serialize_str(&str); serialize_bytes(&[u8]);
        serialize_none(); serialize_unit(); serialize_unit_struct(&'static str);
        serialize_unit_variant(&'static str, u32, &'static str);
    }

    fn serialize_f32(self, v: f32) -> Checked {
        float(v.into())
    }
    fn serialize_f64(self, v: f64) -> Checked {
        float(v)
    }
    fn serialize_some<T: Serialize + ?Sized>(self, v: &T) -> Checked {
        v.serialize(self)
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, v: &T) -> Checked {
        v.serialize(self)
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        v: &T,
    ) -> Checked {
        v.serialize(self)
    }
    fn serialize_seq(self, _: Option<usize>) -> Result<Self, NotFinite> {
        Ok(self)
    }
    fn serialize_tuple(self, _: usize) -> Result<Self, NotFinite> {
        Ok(self)
    }
    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self, NotFinite> {
        Ok(self)
    }
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self, NotFinite> {
        Ok(self)
    }
    fn serialize_map(self, _: Option<usize>) -> Result<Self, NotFinite> {
        Ok(self)
    }
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, NotFinite> {
        Ok(self)
    }
    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self, NotFinite> {
        Ok(self)
    }
}

macro_rules! parts { ($($part:ident :: $name:ident($($key:ty)?);)+) => { $(
    impl ser::$part for Finite {
        type Ok = ();
        type Error = NotFinite;
        fn $name<T: Serialize + ?Sized>(&mut self, $(_: $key,)? v: &T) -> Checked {
            v.serialize(*self)
        }
        fn end(self) -> Checked {
            Ok(())
        }
    }
)+ } }

parts! {
    SerializeSeq::serialize_element();
    SerializeTuple::serialize_element();
    SerializeTupleStruct::serialize_field();
    SerializeTupleVariant::serialize_field();
    SerializeStruct::serialize_field(&'static str);
    SerializeStructVariant::serialize_field(&'static str);
}

impl ser::SerializeMap for Finite {
    type Ok = ();
    type Error = NotFinite;
    fn serialize_key<T: Serialize + ?Sized>(&mut self, _: &T) -> Checked {
        Ok(())
    }
    fn serialize_value<T: Serialize + ?Sized>(&mut self, v: &T) -> Checked {
        v.serialize(*self)
    }
    fn end(self) -> Checked {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::codec::{Codec, Json};

    #[derive(serde::Serialize)]
    struct Reading {
        at: Option<f64>,
        all: Vec<(u8, f32)>,
    }

    #[test]
    fn a_number_that_is_none_is_an_error_and_not_null() {
        let fine = Reading { at: None, all: vec![(1, 1.5)] };
        assert_eq!(Json::encode(&fine).unwrap(), r#"{"at":null,"all":[[1,1.5]]}"#);
        for bad in [
            Reading { at: Some(f64::NAN), all: vec![] },
            Reading { at: None, all: vec![(1, 1.0), (2, f32::INFINITY)] },
        ] {
            assert!(check(&bad).is_err());
            assert!(Json::encode(&bad).is_err());
        }
    }
}
