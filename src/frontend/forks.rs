//! What a message has beyond BVLC's Caffe: the fields and values that the schema says
//! are a fork's. A field that nobody reads must not be ignored in silence, so each
//! layer type claims those that it reads, and [`unclaimed`] tells of the others.
//!
//! A claim is a path from the layer: a field (`pooling_param.pad_l`), a whole message
//! (`permute_param`), or a value of an enum (`pooling_param.pool.AVE_EXC_PAD`). Who claims
//! a message claims what its fork put there: what another fork has added needs a claim of
//! its own.

use prost::Message as _;

use super::proto::LayerParameter;
use super::schema::{FieldType, MessageType, Schema, ValueType};
use super::wire::{self, Payload};

const LAYER: &str = "caffe.LayerParameter";

/// A field of a fork, or a field with a value of a fork, that is set in a message.
#[derive(Debug, PartialEq)]
pub struct OfFork {
    /// Where it stands, with indices: `box_group_output_param.box_group_param[1].stride`.
    pub path: String,
    /// The value, if that is what BVLC's Caffe does not have.
    pub value: Option<&'static str>,
    /// One that has it.
    pub fork: &'static str,
    /// It has no influence on what is computed in phase TEST.
    pub no_effect: bool,
}

/// What the layer has of forks and `claims` does not name, without what has no effect.
/// A message is told once, not field by field, unless some of its fields are claimed;
/// of a repeated field only the first that is not claimed.
pub fn unclaimed(layer: &LayerParameter, claims: &[&str]) -> Vec<OfFork> {
    let mut found = of_forks(&layer.encode_to_vec(), LAYER, claims);
    found.retain(|field| !field.no_effect);
    found
}

/// What a message in wire format, of the type `name` (with package), has of forks and
/// `claims` does not name.
pub fn of_forks(wire: &[u8], name: &str, claims: &[&str]) -> Vec<OfFork> {
    let mut found = Vec::new();
    let walk = Walk { claims };
    let root = Place::default();
    walk.message(wire, Schema::caffe().message(name), &root, &mut found);
    found
}

/// The fork that has what the claim names; `None` if no fork has it, or there is no
/// such field.
pub fn fork_of(claim: &str) -> Option<&'static str> {
    let schema = Schema::caffe();
    let mut ty = Some(ValueType::Message(schema.index(LAYER)));
    let mut fork = None;
    for part in claim.split('.') {
        match ty? {
            ValueType::Message(index) => {
                let field = schema.message_at(index).field(part)?;
                fork = field.fork.or(fork);
                ty = Some(field.kind);
            }
            ValueType::Enum(index) => {
                fork = schema.enum_at(index).named(part)?.fork.or(fork);
                ty = None;
            }
            _ => return None,
        }
    }
    fork
}

struct Walk<'a> {
    claims: &'a [&'a str],
}

/// Where a message stands.
#[derive(Default)]
struct Place {
    /// As claims say it, with a point at its end.
    claim: String,
    /// The same with indices.
    path: String,
    /// Whose message it is, if not BVLC's and not claimed.
    fork: Option<&'static str>,
    /// Whose message it is that is claimed.
    claimed: Option<&'static str>,
}

impl Walk<'_> {
    /// Goes as deep as the schema does.
    fn message(
        &self,
        bytes: &[u8],
        ty: &'static MessageType,
        place: &Place,
        found: &mut Vec<OfFork>,
    ) {
        let mut seen = vec![0; ty.fields.len()];
        let mut told = vec![false; ty.fields.len()];
        for record in wire::records(bytes).map_while(|r| r.ok()) {
            let Some(slot) = ty.index_of(record.number) else {
                continue;
            };
            let field = &ty.fields[slot];
            let mut inner = place.inside(field, seen[slot]);
            seen[slot] += 1;
            if told[slot] {
                continue;
            }
            if self.claims.contains(&inner.claim.as_str()) {
                inner.claimed = inner.fork.take();
            }
            let before = found.len();
            self.field(field, record.payload, inner, found);
            told[slot] = found.len() > before;
        }
    }

    fn field(
        &self,
        field: &'static FieldType,
        payload: Payload,
        mut place: Place,
        found: &mut Vec<OfFork>,
    ) {
        let mut value = None;
        match (field.kind, payload) {
            (ValueType::Message(index), Payload::Bytes(inside)) if !field.no_effect => {
                let prefix = format!("{}.", place.claim);
                if place.fork.is_none() || self.claims.iter().any(|c| c.starts_with(&prefix)) {
                    place.claim = prefix;
                    place.path.push('.');
                    let ty = Schema::caffe().message_at(index);
                    return self.message(inside, ty, &place, found);
                }
            }
            (ValueType::Enum(index), Payload::Varint(number)) => {
                let known = Schema::caffe().enum_at(index).numbered(number as i32);
                if let Some((known, fork)) = known.and_then(|v| Some((v, v.fork?))) {
                    let claim = format!("{}.{}", place.claim, known.name);
                    if self.claims.contains(&claim.as_str()) {
                        return;
                    }
                    value = Some(known.name);
                    place.fork = Some(fork);
                }
            }
            _ => {}
        }
        if let Some(fork) = place.fork {
            found.push(OfFork {
                path: place.path,
                value,
                fork,
                no_effect: field.no_effect,
            });
        }
    }
}

impl Place {
    /// That of value `index` of a field of this message.
    fn inside(&self, field: &'static FieldType, index: usize) -> Place {
        let mut path = format!("{}{}", self.path, field.name);
        if field.repeated() {
            path += &format!("[{index}]");
        }
        let own = field.fork;
        Place {
            claim: format!("{}{}", self.claim, field.name),
            path,
            fork: own.filter(|_| own != self.claimed).or(self.fork),
            claimed: self.claimed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse_text;
    use super::*;
    use crate::diag::Sources;

    /// `path`, or `path: value`, of what is not claimed in a layer.
    fn left(text: &str, claims: &[&str]) -> Vec<String> {
        let mut sources = Sources::default();
        let file = sources.add("layer", text.into());
        let layer = parse_text::<LayerParameter>(&sources, file, LAYER).unwrap();
        let told = |field: OfFork| match field.value {
            Some(value) => format!("{}: {value}", field.path),
            None => field.path,
        };
        let fields = unclaimed(&layer.message, claims);
        fields.into_iter().map(told).collect()
    }

    #[test]
    fn fields_of_bvlc_need_no_claim() {
        let text =
            "name: 'p' type: 'Pooling' pooling_param { pool: AVE kernel_size: 2 engine: MKL2017 }
            debug: true transform_param { crop_size: 3 }";
        assert_eq!(left(text, &[]), [""; 0]);
    }

    #[test]
    fn what_is_not_claimed_is_told() {
        let text = "pooling_param { pool: AVE_EXC_PAD pad_l: 1 pad_r: 2 }";
        let pool = "pooling_param.pool: AVE_EXC_PAD";
        let all = [pool, "pooling_param.pad_l", "pooling_param.pad_r"];
        assert_eq!(left(text, &[]), all);
        assert_eq!(left(text, &["pooling_param.pad_l"]), [pool, all[2]]);
        let value = "pooling_param.pool.AVE_EXC_PAD";
        assert_eq!(left(text, &[value, all[1], all[2]]), [""; 0]);
    }

    #[test]
    fn messages_are_claimed_whole_or_in_parts() {
        let text = "box_group_output_param { fg_thr: 1 box_group_param { stride: 2 }
            box_group_param { field_h: 1 field_h: 2 stride: 3 } }";
        let all = "box_group_output_param";
        assert_eq!(left(text, &[]), [all]);
        assert_eq!(left(text, &[all]), [""; 0]);
        let fg_thr = "box_group_output_param.fg_thr";
        let stride = "box_group_output_param.box_group_param.stride";
        let field = "box_group_output_param.box_group_param[1].field_h[0]";
        assert_eq!(left(text, &[stride, fg_thr]), [field]);
    }

    #[test]
    fn who_claims_a_message_does_not_claim_what_other_forks_add() {
        let text = "detection_output_param { num_classes: 2 save_file: 'x' has_lm: true
            nms_param { eta: 1 soft_nms: true } }";
        let all = "detection_output_param";
        let [lm, soft] = [".has_lm", ".nms_param.soft_nms"].map(|f| format!("{all}{f}"));
        assert_eq!(left(text, &[all]), [soft.as_str(), &lm]);
        assert_eq!(left(text, &[all, &lm, &soft]), [""; 0]);
    }

    #[test]
    fn claims_name_what_forks_have() {
        assert_eq!(fork_of("permute_param.order"), Some("SSD"));
        assert_eq!(fork_of("pooling_param.pool.AVE_EXC_PAD"), Some("Synopsys"));
        for none in [
            "pooling_param",
            "pooling_param.pool.MAX",
            "permute_param.oder",
            "permute_param.order.more",
        ] {
            assert_eq!(fork_of(none), None, "{none}");
        }
    }

    #[test]
    fn of_a_net_itself_nothing_has_an_effect() {
        for ty in ["NetParameter", "NetState", "NetStateRule", "ParamSpec"] {
            let ty = Schema::caffe().message(&format!("caffe.{ty}"));
            let of_forks = ty.fields.iter().filter(|f| f.fork.is_some());
            assert!(of_forks.into_iter().all(|f| f.no_effect), "{}", ty.name);
        }
    }
}
