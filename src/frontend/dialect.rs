//! Forks of Caffe whose layers mean different things under one name.

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

    pub fn named(name: &str) -> Option<Dialect> {
        let found = Self::ALL.iter().find(|(known, _)| *known == name);
        found.map(|(_, dialect)| *dialect)
    }
}
