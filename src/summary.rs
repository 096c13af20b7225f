//! What a net is, in figures: shapes, parameters, multiply-adds, memory, receptive
//! fields.
//!
//! In: a graph as far as it could be built. Out: a [`Summary`], as a value, as text
//! or as JSON (`docs/JSON.md`). Needs no weights.

use crate::diag::clean;
use crate::ir::{BlobId, Built, Graph, Node, Shape};
use crate::kernel::Checked;
use crate::layers::Taps;
use serde_json::{Map, Value, json};
use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;

/// Version of the JSON form: a key that changes its meaning or goes raises it.
pub const JSON_VERSION: u32 = 1;

pub struct Summary<'a> {
    graph: &'a Graph,
    /// Memory of the compiled net, fused and unfused, where it could be planned.
    pub planned: Option<[Memory; 2]>,
    pub layers: Vec<Row<'a>>,
    /// Name and type of the layers that could not be built.
    pub incomplete: Vec<(String, String)>,
    pub totals: Totals,
}

/// One layer, or one input.
pub struct Row<'a> {
    pub name: &'a str,
    pub kind: &'static str,
    pub bottoms: Vec<&'a str>,
    pub tops: Vec<(&'a str, &'a Shape)>,
    pub params: Vec<&'a Shape>,
    pub macs: u64,
    /// Of all tops; 0 where the layer works in place or hands its bottom on.
    pub activation_bytes: u64,
    /// Of the first top; `None` where there is no height and width to speak of.
    pub field: Option<Field>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Totals {
    /// Parameters of all layers; `unique_params` counts shared ones once.
    pub params: u64,
    pub unique_params: u64,
    pub macs: u64,
    /// Each blob in memory of its own, as Caffe holds them.
    pub activation_bytes: u64,
}

/// What a compiled net takes, in bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Memory {
    /// Activations, for each forward pass at a time.
    pub activations: u64,
    /// Activations that are needed at the same time, where that is most.
    pub live: u64,
    pub weights: u64,
    /// For each thread.
    pub scratch: u64,
}

impl Memory {
    pub fn of(program: &Checked) -> Memory {
        let bytes = |len: usize| len as u64 * 4;
        Memory {
            activations: bytes(program.arena_len),
            live: bytes(program.most_live()),
            weights: bytes(program.weights_len),
            scratch: bytes(program.scratch_len),
        }
    }

    fn json(self) -> Value {
        json!({
            "activation_bytes": self.activations,
            "live_bytes": self.live,
            "weight_bytes": self.weights,
            "scratch_bytes_per_thread": self.scratch,
        })
    }
}

/// The part of the input that the first position of a blob depends on, in pixels
/// along height and width, and the step from one position to the next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Field(pub [FieldAxis; 2]);

/// `offset` is where the field begins, negative inside the padding. All fractions only
/// behind deconvolutions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FieldAxis {
    pub size: f64,
    pub stride: f64,
    pub offset: f64,
}

impl FieldAxis {
    const PIXEL: FieldAxis = FieldAxis {
        size: 1.0,
        stride: 1.0,
        offset: 0.0,
    };

    fn through(self, taps: Taps) -> FieldAxis {
        let [kernel, stride, pad, dilation] =
            [taps.kernel, taps.stride, taps.pad, taps.dilation].map(|n| n as f64);
        let extent = dilation * (kernel - 1.0) + 1.0;
        if taps.transposed {
            return FieldAxis {
                size: self.size + ((extent / stride).ceil() - 1.0) * self.stride,
                stride: self.stride / stride,
                offset: self.offset + ((pad - extent + 1.0) / stride).ceil() * self.stride,
            };
        }
        FieldAxis {
            size: self.size + (extent - 1.0) * self.stride,
            stride: self.stride * stride,
            offset: self.offset - pad * self.stride,
        }
    }

    /// The hull of both; the coarser step.
    fn join(self, other: FieldAxis) -> FieldAxis {
        let offset = self.offset.min(other.offset);
        let end = (self.offset + self.size).max(other.offset + other.size);
        FieldAxis {
            size: end - offset,
            stride: self.stride.max(other.stride),
            offset,
        }
    }
}

/// A field and the input that it lies in; `All` covers the whole input.
#[derive(Clone, Copy)]
enum Reach {
    Part(BlobId, Field),
    All,
}

impl<'a> Summary<'a> {
    pub fn new(built: &'a Built) -> Summary<'a> {
        let graph = &built.graph;
        let mut layers: Vec<Row> = graph.inputs.iter().map(|&b| input_row(graph, b)).collect();
        let fields = fields(graph);
        // Views without a layer of their own stand for memory that Caffe shares.
        let nodes = graph.nodes.iter().filter(|n| !n.layers.is_empty());
        layers.extend(nodes.map(|node| layer_row(graph, node, &fields)));
        let incomplete = built.incomplete.iter();
        Summary {
            graph,
            planned: None,
            incomplete: incomplete
                .map(|l| (l.name.clone(), l.type_name.clone()))
                .collect(),
            totals: totals(graph, &layers),
            layers,
        }
    }
}

fn totals(graph: &Graph, layers: &[Row]) -> Totals {
    let params = layers.iter().flat_map(|row| &row.params);
    let unique = graph.params.iter().map(|p| p.spec.shape.count() as u64);
    Totals {
        params: params.map(|shape| shape.count() as u64).sum(),
        unique_params: unique.sum(),
        macs: layers
            .iter()
            .map(|row| row.macs)
            .fold(0, u64::saturating_add),
        activation_bytes: layers.iter().map(|row| row.activation_bytes).sum(),
    }
}

fn bytes(shape: &Shape) -> u64 {
    shape.count() as u64 * 4
}

fn input_row(graph: &Graph, input: BlobId) -> Row<'_> {
    let blob = &graph[input];
    Row {
        name: &blob.name,
        kind: "Input",
        bottoms: Vec::new(),
        tops: vec![(&blob.name, &blob.shape)],
        params: Vec::new(),
        macs: 0,
        activation_bytes: bytes(&blob.shape),
        field: None,
    }
}

fn layer_row<'a>(graph: &'a Graph, node: &'a Node, fields: &HashMap<BlobId, Reach>) -> Row<'a> {
    let shape = |&b: &BlobId| graph.shape(b);
    let name = |&b: &BlobId| graph[b].name.as_str();
    let shapes = |blobs: &[BlobId]| blobs.iter().map(|b| shape(b).clone()).collect::<Vec<_>>();
    let bottoms: Vec<&str> = node.bottoms.iter().map(name).collect();
    let counted = usize::from(node.op.counted().is_some());
    let own = &node.tops[..node.tops.len() - counted];
    let tops: Vec<_> = own.iter().map(|b| (name(b), shape(b))).collect();
    let own = tops.iter().enumerate();
    let own = own.filter(|(i, (name, _))| bottoms.get(*i) != Some(name));
    let shared = node.op.shares_storage();
    let field = match node.tops.first().and_then(|top| fields.get(top)) {
        Some(Reach::Part(_, field)) => Some(*field),
        _ => None,
    };
    Row {
        name: &node.name,
        kind: node.op.type_name(),
        params: node.params.iter().map(|&p| &graph[p].spec.shape).collect(),
        macs: node.op.macs(&shapes(&node.bottoms), &shapes(&node.tops)),
        activation_bytes: match shared {
            true => 0,
            false => own.map(|(_, (_, shape))| bytes(shape)).sum(),
        },
        field,
        bottoms,
        tops,
    }
}

/// Height and width of a blob of four axes.
fn plane(shape: &Shape) -> Option<[usize; 2]> {
    match shape.dims() {
        &[_, _, h, w] => Some([h, w]),
        _ => None,
    }
}

/// Receptive fields of all blobs that have one.
fn fields(graph: &Graph) -> HashMap<BlobId, Reach> {
    let mut fields = HashMap::new();
    for &input in &graph.inputs {
        if plane(graph.shape(input)).is_some() {
            let pixel = Field([FieldAxis::PIXEL; 2]);
            fields.insert(input, Reach::Part(input, pixel));
        }
    }
    for node in &graph.nodes {
        for &top in &node.tops {
            if let Some(reach) = reach(graph, node, top, &fields) {
                fields.insert(top, reach);
            }
        }
    }
    fields
}

/// The field of one top: what its bottoms' fields become, joined. Fields in
/// different inputs do not join: the first counts.
fn reach(
    graph: &Graph,
    node: &Node,
    top: BlobId,
    fields: &HashMap<BlobId, Reach>,
) -> Option<Reach> {
    let taps = node.op.taps(&graph.bottom_shapes(node));
    let through = |&bottom: &BlobId| {
        let &Reach::Part(input, field) = fields.get(&bottom)? else {
            return Some(Reach::All);
        };
        let bottom = plane(graph.shape(bottom))?;
        Some(match taps {
            Some(taps) => {
                let axes = [0, 1].map(|axis| field.0[axis].through(taps[axis]));
                Reach::Part(input, Field(axes))
            }
            None if bottom == [1, 1] || plane(graph.shape(top)) == Some(bottom) => {
                Reach::Part(input, field)
            }
            None => Reach::All,
        })
    };
    let join = |a, b| match (a, b) {
        (Reach::Part(i, a), Reach::Part(j, b)) if i == j => {
            Reach::Part(i, Field([0, 1].map(|axis| a.0[axis].join(b.0[axis]))))
        }
        (Reach::All, _) | (_, Reach::All) => Reach::All,
        (first, _) => first,
    };
    node.bottoms.iter().filter_map(through).reduce(join)
}

// ---------------------------------------------------------------- JSON

impl Summary<'_> {
    /// The form that `docs/JSON.md` describes.
    pub fn json(&self) -> Value {
        let mut json = json!({
            "version": JSON_VERSION,
            "name": self.graph.name,
            "inputs": self.names(&self.graph.inputs),
            "outputs": self.names(&self.graph.outputs),
            "n_params": self.totals.params,
            "n_params_unique": self.totals.unique_params,
            "blobs": self.blobs(),
            "params": self.params(),
            "order": self.layers.iter().map(order).collect::<Vec<_>>(),
            "layers": self.layers.iter().map(layer_json).collect::<Vec<_>>(),
            "totals": {
                "params": self.totals.params,
                "params_unique": self.totals.unique_params,
                "macs": self.totals.macs,
                "activation_bytes": self.totals.activation_bytes,
            },
        });
        if let Some([fused, unfused]) = self.planned {
            json["memory"] = json!({"fused": fused.json(), "unfused": unfused.json()});
        }
        if !self.incomplete.is_empty() {
            let incomplete = self.incomplete.iter();
            json["incomplete"] = incomplete
                .map(|(name, kind)| json!({"name": name, "type": kind}))
                .collect();
        }
        json
    }

    fn names(&self, blobs: &[BlobId]) -> Vec<&str> {
        blobs.iter().map(|&b| self.graph[b].name.as_str()).collect()
    }

    /// Every name, in the order in which blobs come to be, with its last shape.
    fn blobs(&self) -> Map<String, Value> {
        let mut seen = BTreeSet::new();
        let names = self.graph.blobs.iter().map(|b| &b.name);
        let names = names.filter(|name| seen.insert(*name));
        let known = names.filter_map(|name| Some((name, self.graph.names.get(name)?)));
        let mut blobs: Map<String, Value> = known
            .map(|(name, &blob)| (name.clone(), json!(self.graph.setup_shape(blob))))
            .collect();
        // Caffe gives a loss without a top one of this name (`net.cpp`, `Init`).
        let topless = |row: &Row| row.tops.is_empty() && row.kind.ends_with("Loss");
        if self.layers.iter().any(topless) {
            blobs.insert("(automatic)".into(), json!([]));
        }
        blobs
    }

    /// Shapes by layer; further layers of one name are `name#2`, `name#3`, …
    fn params(&self) -> Map<String, Value> {
        let mut map = Map::new();
        let mut seen: HashMap<&str, usize> = HashMap::new();
        for row in &self.layers {
            let count = seen.entry(row.name).or_default();
            *count += 1;
            if !row.params.is_empty() {
                let key = match count {
                    1 => row.name.to_string(),
                    n => format!("{}#{n}", row.name),
                };
                let shapes: Vec<_> = row.params.iter().map(|s| s.dims()).collect();
                map.insert(key, json!(shapes));
            }
        }
        map
    }
}

fn order(row: &Row) -> Value {
    let tops: Vec<&str> = row.tops.iter().map(|(name, _)| *name).collect();
    json!([row.name, row.kind, row.bottoms, tops])
}

fn layer_json(row: &Row) -> Value {
    let field = row.field.map(|field| {
        let both = |f: fn(FieldAxis) -> f64| field.0.map(|axis| number(f(axis)));
        json!({
            "size": both(|a| a.size),
            "stride": both(|a| a.stride),
            "offset": both(|a| a.offset),
        })
    });
    json!({
        "name": row.name,
        "type": row.kind,
        "bottoms": row.bottoms,
        "tops": row.tops.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
        "shapes": row.tops.iter().map(|(_, shape)| shape.dims()).collect::<Vec<_>>(),
        "params": row.params.iter().map(|s| s.count() as u64).sum::<u64>(),
        "macs": row.macs,
        "activation_bytes": row.activation_bytes,
        "receptive_field": field,
    })
}

/// An integer where it is one.
fn number(value: f64) -> Value {
    match value.fract() == 0.0 {
        true => json!(value as i64),
        false => json!(value),
    }
}

// ---------------------------------------------------------------- text

impl Summary<'_> {
    /// A table of the layers and the totals.
    pub fn text(&self) -> String {
        let mut table = Table::new(
            &[
                "layer",
                "type",
                "output",
                "parameters",
                "multiply-adds",
                "activations",
                "field",
                "stride",
                "offset",
            ],
            3,
        );
        for row in &self.layers {
            let shown = row.tops.iter().map(|(_, shape)| shape.to_string());
            let some = |n: u64, text: String| if n == 0 { String::new() } else { text };
            let params = row.params.iter().map(|s| s.count() as u64).sum();
            let axes = |f: fn(FieldAxis) -> f64| match row.field {
                Some(Field([h, w])) if f(h) == f(w) => fraction(f(h)),
                Some(Field([h, w])) => format!("{}×{}", fraction(f(h)), fraction(f(w))),
                None => String::new(),
            };
            table.row(vec![
                clean(row.name),
                row.kind.to_string(),
                shown.collect::<Vec<_>>().join(", "),
                some(params, thousands(params)),
                some(row.macs, thousands(row.macs)),
                some(row.activation_bytes, human_bytes(row.activation_bytes)),
                axes(|a| a.size),
                axes(|a| a.stride),
                axes(|a| a.offset),
            ]);
        }
        let mut out = table.text();
        for (name, kind) in &self.incomplete {
            writeln!(out, "{}  {}  ?", clean(name), clean(kind)).expect("a string takes it");
        }
        out + &self.totals_text()
    }

    fn totals_text(&self) -> String {
        let Totals {
            params,
            unique_params,
            macs,
            activation_bytes,
        } = self.totals;
        let shared = match unique_params == params {
            true => String::new(),
            false => format!(", {} without shared ones twice", thousands(unique_params)),
        };
        let mut out = format!(
            "\nparameters       {} ({}{shared})\nmultiply-adds    {}\nactivations      {}, each blob in memory of its own\n",
            thousands(params),
            human_bytes(unique_params * 4),
            thousands(macs),
            human_bytes(activation_bytes),
        );
        let kinds = ["planned, fused", "planned, unfused"];
        for (kind, memory) in kinds.iter().zip(self.planned.iter().flatten()) {
            let Memory {
                activations,
                live,
                weights,
                scratch,
            } = memory;
            let [activations, live, weights, scratch] =
                [activations, live, weights, scratch].map(|&bytes| human_bytes(bytes));
            writeln!(
                out,
                "{kind:<16} {activations} activations ({live} at the same time), {weights} packed weights, {scratch} scratch a thread"
            )
            .expect("a string takes it");
        }
        out
    }
}

fn fraction(value: f64) -> String {
    match value.fract() == 0.0 {
        true => format!("{value}"),
        false => format!("{value:.2}"),
    }
}

/// `7,595,176`.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `28.97 MiB`.
pub fn human_bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{n} B"),
        _ => format!("{value:.2} {}", UNITS[unit]),
    }
}

/// Columns of text; from column `numbers` on they are right-aligned. Cells are cut to
/// a width that a line can bear.
pub struct Table {
    numbers: usize,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(head: &[&str], numbers: usize) -> Table {
        Table {
            numbers,
            rows: vec![head.iter().map(|s| s.to_string()).collect()],
        }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        const WIDEST: usize = 80;
        let cut = |cell: String| match cell.char_indices().nth(WIDEST) {
            Some((end, _)) => format!("{}…", &cell[..end]),
            None => cell,
        };
        self.rows.push(cells.into_iter().map(cut).collect());
    }

    pub fn text(&self) -> String {
        let columns = self.rows[0].len();
        let width = |c: usize| self.rows.iter().map(|r| r[c].chars().count()).max();
        let widths: Vec<usize> = (0..columns).filter_map(width).collect();
        let mut out = String::new();
        for row in &self.rows {
            let cells = row.iter().zip(&widths).enumerate();
            let cells = cells.map(|(c, (cell, &width))| match c < self.numbers {
                true => format!("{cell:<width$}"),
                false => format!("{cell:>width$}"),
            });
            let line = cells.collect::<Vec<_>>().join("  ");
            out += line.trim_end();
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diag::Sources;
    use crate::frontend::{State, load_net};
    use crate::ir;

    fn built(text: &str) -> Built {
        let mut sources = Sources::default();
        let state = State::default();
        let net = load_net("n", text.into(), &mut sources, &state).unwrap();
        ir::build(&net, &ir::Options::default())
    }

    fn fixture(name: &str) -> Built {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/");
        built(&std::fs::read_to_string(format!("{folder}{name}.prototxt")).unwrap())
    }

    fn field(summary: &Summary, layer: &str) -> Option<[f64; 3]> {
        let row = summary.layers.iter().find(|r| r.name == layer).unwrap();
        let axis = row.field?.0[0];
        Some([axis.size, axis.stride, axis.offset])
    }

    #[test]
    fn cells_are_cut_to_a_width() {
        let mut table = Table::new(&["layer", "n"], 1);
        table.row(vec!["ä".repeat(70_000), "1".into()]);
        let text = table.text();
        assert_eq!(
            text.lines().last(),
            Some(&*format!("{}…  1", "ä".repeat(80)))
        );
    }

    #[test]
    fn receptive_fields_of_alexnet() {
        let built = fixture("alexnet");
        let summary = Summary::new(&built);
        assert_eq!(field(&summary, "conv1"), Some([11.0, 4.0, 0.0]));
        assert_eq!(field(&summary, "pool1"), Some([19.0, 8.0, 0.0]));
        assert_eq!(field(&summary, "conv2"), Some([51.0, 8.0, -16.0]));
        assert_eq!(field(&summary, "pool5"), Some([195.0, 32.0, -64.0]));
        assert_eq!(field(&summary, "fc6"), None);
    }

    #[test]
    fn branches_join_and_deconvolutions_refine() {
        let built = built(
            "layer { name: 'data' type: 'Input' top: 'data' input_param { shape { dim: [1, 1, 9, 9] } } }
             layer { name: 'a' type: 'Convolution' bottom: 'data' top: 'a' convolution_param { num_output: 1 kernel_size: 3 pad: 1 } }
             layer { name: 'b' type: 'Convolution' bottom: 'data' top: 'b' convolution_param { num_output: 1 kernel_size: 3 dilation: 2 pad: 2 } }
             layer { name: 'sum' type: 'Eltwise' bottom: 'a' bottom: 'b' top: 'sum' }
             layer { name: 'half' type: 'Pooling' bottom: 'sum' top: 'half' pooling_param { kernel_size: 2 stride: 2 } }
             layer { name: 'up' type: 'Deconvolution' bottom: 'half' top: 'up' convolution_param { num_output: 1 kernel_size: 4 stride: 2 pad: 1 } }",
        );
        let summary = Summary::new(&built);
        assert_eq!(field(&summary, "sum"), Some([5.0, 1.0, -2.0]));
        assert_eq!(field(&summary, "half"), Some([6.0, 2.0, -2.0]));
        // Position 0 sees pooled positions −1 and 0.
        assert_eq!(field(&summary, "up"), Some([8.0, 1.0, -4.0]));
    }

    #[test]
    fn figures_of_the_papers() {
        for (name, params, macs) in [
            ("nin_imagenet", 7_595_176, 1_100),
            ("vgg16", 138_357_544, 15_470),
        ] {
            let built = fixture(name);
            let summary = Summary::new(&built);
            assert_eq!(summary.totals.params, params);
            assert_eq!(summary.totals.macs / 1_000_000, macs);
        }
    }

    #[test]
    fn shared_parameters_count_once() {
        let built = built(
            "layer { name: 'data' type: 'Input' top: 'data' input_param { shape { dim: [1, 2] } } }
             layer { name: 'ip' type: 'InnerProduct' bottom: 'data' top: 'x' param { name: 'w' } param { name: 'b' } inner_product_param { num_output: 2 } }
             layer { name: 'ip' type: 'InnerProduct' bottom: 'x' top: 'y' param { name: 'w' } param { name: 'b' } inner_product_param { num_output: 2 } }",
        );
        let summary = Summary::new(&built);
        assert_eq!(
            (summary.totals.params, summary.totals.unique_params),
            (12, 6)
        );
        let json = summary.json();
        assert_eq!(json["params"]["ip#2"], json!([[2, 2], [2]]));
        assert_eq!(json["blobs"]["y"], json!([1, 2]));
        assert_eq!(
            json["order"][1],
            json!(["ip", "InnerProduct", ["data"], ["x"]])
        );
        assert!(json.get("incomplete").is_none());
    }

    #[test]
    fn numbers_as_people_write_them() {
        assert_eq!(thousands(7_595_176), "7,595,176");
        assert_eq!(thousands(176), "176");
        assert_eq!(human_bytes(1023), "1023 B");
        assert_eq!(human_bytes(1536), "1.50 KiB");
    }
}
