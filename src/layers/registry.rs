//! Layer types of a library's user.

use super::{Cx, Layer, check_claims};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use std::collections::BTreeMap;
use std::sync::Arc;

type Make = fn(&LayerParameter, &Cx) -> Result<Arc<dyn Layer>>;

/// Layer types that a net may use beside caffec's own.
///
/// A custom layer has a shape rule ([`Layer::infer`]) and a routine
/// ([`Layer::routine`]), which all engines run: compiled nets call it. Emitted source
/// contains the routine's text if it has one
/// ([`Routine::modules`](crate::leaf::routine::Routine::modules)); otherwise it names a
/// function of the routine's name in the module that holds the emitted one.
#[derive(Clone, Debug, Default)]
pub struct Registry(BTreeMap<&'static str, Make>);

impl Registry {
    /// Adds a type. Types of the table keep their meaning; of two types of one name the
    /// later one counts.
    pub fn register<L: Layer + 'static>(&mut self, type_name: &'static str) {
        self.0.insert(type_name, |param, cx| {
            check_claims(param, L::claims(), cx)?;
            Ok(Arc::new(L::from_param(param, cx)?))
        });
    }

    /// Names of the types, in order.
    pub fn types(&self) -> impl Iterator<Item = &'static str> {
        self.0.keys().copied()
    }

    /// A layer of a registered type, `None` if there is no such type.
    pub(super) fn make(
        &self,
        type_name: &str,
        param: &LayerParameter,
        cx: &Cx,
    ) -> Option<Result<Custom>> {
        let (&name, make) = self.0.get_key_value(type_name)?;
        Some(make(param, cx).map(|layer| Custom { name, layer }))
    }
}

/// A layer of a registered type.
#[derive(Clone, Debug)]
pub struct Custom {
    pub name: &'static str,
    pub layer: Arc<dyn Layer>,
}
