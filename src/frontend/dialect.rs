//! Forks of Caffe whose layers mean different things under one name.

use super::proto::LayerParameter;

/// Whose meaning counts where forks disagree about a layer type or a default. Where
/// nothing is said, it is what the net has that tells (fields, numbers of bottoms,
/// blobs of the weights), else BVLC's Caffe, else the SSD branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    Bvlc,
    C3d,
    Caffe3d,
    CascadeRcnn,
    Ctpn,
    DeepLab,
    FaceBoxes,
    FastRcnn,
    Happynear,
    Intel,
    Jolibrain,
    MiniCaffe,
    MobileNetYolo,
    MsCnn,
    NvCaffe,
    PspNet,
    RFcn,
    SegNet,
    Ssd,
    Synopsys,
    TextBoxes,
}

impl Dialect {
    /// All of them with their names, in order.
    pub const ALL: &'static [(&'static str, Dialect)] = &[
        ("3d-caffe", Dialect::Caffe3d),
        ("bvlc", Dialect::Bvlc),
        ("c3d", Dialect::C3d),
        ("cascade-rcnn", Dialect::CascadeRcnn),
        ("ctpn", Dialect::Ctpn),
        ("deeplab", Dialect::DeepLab),
        ("faceboxes", Dialect::FaceBoxes),
        ("fast-rcnn", Dialect::FastRcnn),
        ("happynear", Dialect::Happynear),
        ("intel", Dialect::Intel),
        ("jolibrain", Dialect::Jolibrain),
        ("mini-caffe", Dialect::MiniCaffe),
        ("mobilenet-yolo", Dialect::MobileNetYolo),
        ("ms-cnn", Dialect::MsCnn),
        ("nvcaffe", Dialect::NvCaffe),
        ("pspnet", Dialect::PspNet),
        ("r-fcn", Dialect::RFcn),
        ("segnet", Dialect::SegNet),
        ("ssd", Dialect::Ssd),
        ("synopsys", Dialect::Synopsys),
        ("textboxes", Dialect::TextBoxes),
    ];

    /// What the layers of a net, upgraded, tell by themselves. C3D is of the time before
    /// messages of its layers' own: three-dimensional ones read `convolution_param` and
    /// `pooling_param` there, those of later forks `convolution3d_param` and its kin.
    pub fn told_by(layers: &[LayerParameter]) -> Option<Dialect> {
        let old = |layer: &LayerParameter| {
            of_clips(layer)
                && layer.convolution3d_param.is_none()
                && layer.pooling3d_param.is_none()
        };
        layers.iter().any(old).then_some(Dialect::C3d)
    }

    pub fn named(name: &str) -> Option<Dialect> {
        let found = Self::ALL.iter().find(|(known, _)| *known == name);
        found.map(|(_, dialect)| *dialect)
    }
}

/// Whether the layer takes clips: N × C × length × H × W.
pub(super) fn of_clips(layer: &LayerParameter) -> bool {
    matches!(
        layer.r#type(),
        "Convolution3D" | "Deconvolution3D" | "Pooling3D"
    )
}
