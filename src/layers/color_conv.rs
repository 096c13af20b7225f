//! `ColorConv` (the Caffe of colorization, `color_conv_layer.cpp`): colours from one space to
//! another.
//!
//! * bottom: `[N, C, H, W]`, 1 channel of Gray, 3 of the other spaces; BGR, RGB (sRGB) and
//!   Gray from 0 to 255. Top: likewise. (The original's CPU code converts the first image only,
//!   its GPU code all.)
//! * XYZ: the sRGB curve undone, then the matrix of sRGB with D65 white. Lab: with the white
//!   0.95074, 1, 1.08883, linear up to 0.008867 (of the cube root: 0.206896). Gray: the Y of
//!   that matrix, of values as they are.
//! * There is no way from Gray to XYZ or Lab, nor back, nor from XYZ or Lab to itself.

use super::{Cx, Layer};
use crate::diag::Result;
use crate::frontend::proto::LayerParameter;
use crate::frontend::proto::color_conv_parameter::ColorSpace;
use crate::ir::Shape;
use crate::leaf::math;
use crate::leaf::routine::Call;

#[derive(Clone, Debug)]
pub struct ColorConv {
    input: ColorSpace,
    output: ColorSpace,
}

impl Layer for ColorConv {
    fn claims() -> &'static [&'static str] {
        &["color_conv_param"]
    }

    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        use ColorSpace::{Bgr, Gray, Lab, Rgb, Xyz};
        cx.counts(1..=1, 1..=1)?;
        cx.not_in_place()?;
        let p = param.color_conv_param.clone().unwrap_or_default();
        let (input, output) = (p.input(), p.output());
        let known = matches!(
            (input, output),
            (Bgr | Rgb, _) | (Gray | Lab | Xyz, Bgr | Rgb) | (Lab, Xyz) | (Xyz, Lab)
        );
        if !known {
            let message = format!(
                "there is no conversion from {} to {}",
                input.as_str_name(),
                output.as_str_name()
            );
            return Err(cx.unsupported("color_conv_param.output", message).into());
        }
        Ok(ColorConv { input, output })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let channels = |space| if space == ColorSpace::Gray { 1 } else { 3 };
        let wanted = channels(self.input);
        let [n, c, h, w] = bottoms[0][..] else {
            let message = format!("the bottom must have 4 axes, it is {}", bottoms[0]);
            return Err(cx.invalid("bottom", message).into());
        };
        if c != wanted {
            let message = format!("{c} channels instead of {wanted}");
            return Err(cx.invalid("bottom", message).into());
        }
        let dims = [n, channels(self.output), h, w];
        Ok(vec![cx.locate("bottom", Shape::new(dims))?])
    }

    /// One call an image.
    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let sizes = vec![self.input as usize, self.output as usize];
        let call = Call::new(routine!("color_conv", "math"), sizes, Vec::new());
        Some(call.cut(bottoms[0][0].max(1)))
    }
}

/// Pasted into emitted source.
mod routine {
    use super::math::{exp, ln};

    const XYZ_OF_RGB: [[f64; 3]; 3] = [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ];
    const RGB_OF_XYZ: [[f64; 3]; 3] = [
        [3.2404542, -1.5371385, -0.4985314],
        [-0.9692660, 1.8760108, 0.0415560],
        [0.0556434, -0.2040259, 1.0572252],
    ];
    const WHITE: [f64; 3] = [0.95074, 1.0, 1.08883];

    // `sizes`: the numbers of the spaces, BGR 0, RGB 1, XYZ 2, Lab 3, Gray 5.
    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], _values: &[f32]) {
        let channels = |space: usize| if space == 5 { 1 } else { 3 };
        let pixels = bottoms[0].len() / channels(sizes[0]);
        for i in 0..pixels {
            let value = |c: usize| f64::from(bottoms[0][c * pixels + i]);
            let color = match sizes[0] {
                0 => [value(2), value(1), value(0)],
                5 => [value(0); 3],
                _ => [value(0), value(1), value(2)],
            };
            let from = if sizes[0] == 0 || sizes[0] == 5 {
                1
            } else {
                sizes[0]
            };
            let [a, b, c] = match (from, sizes[1]) {
                (1, 2) => xyz_of_rgb(color),
                (1, 3) => lab_of_xyz(xyz_of_rgb(color)),
                (1, 5) => [dot(XYZ_OF_RGB[1], color); 3],
                (2, 3) => lab_of_xyz(color),
                (2, _) => rgb_of_xyz(color),
                (3, 2) => xyz_of_lab(color),
                (3, _) => rgb_of_xyz(xyz_of_lab(color)),
                _ => color,
            };
            let out = if sizes[1] == 0 { [c, b, a] } else { [a, b, c] };
            for (n, y) in out.iter().enumerate().take(channels(sizes[1])) {
                tops[0][n * pixels + i] = *y as f32;
            }
        }
    }

    fn dot(row: [f64; 3], x: [f64; 3]) -> f64 {
        row[0] * x[0] + row[1] * x[1] + row[2] * x[2]
    }

    fn times(matrix: &[[f64; 3]; 3], x: [f64; 3]) -> [f64; 3] {
        matrix.map(|row| dot(row, x))
    }

    fn power(x: f64, y: f64) -> f64 {
        exp(y * ln(x))
    }

    fn xyz_of_rgb(rgb: [f64; 3]) -> [f64; 3] {
        let linear = |v: f64| {
            let v = v / 255.0;
            if v <= 0.04045 {
                v / 12.92
            } else {
                power((v + 0.055) / 1.055, 2.4)
            }
        };
        times(&XYZ_OF_RGB, rgb.map(linear))
    }

    fn rgb_of_xyz(xyz: [f64; 3]) -> [f64; 3] {
        let curve = |v: f64| {
            let s = if v <= 0.0031308 {
                v * 12.92
            } else {
                1.055 * power(v, 1.0 / 2.4) - 0.055
            };
            s * 255.0
        };
        times(&RGB_OF_XYZ, xyz).map(curve)
    }

    fn lab_of_xyz(xyz: [f64; 3]) -> [f64; 3] {
        let root = |v: f64| {
            if v > 0.008867 {
                power(v, 1.0 / 3.0)
            } else {
                (903.3 * v + 16.0) / 116.0
            }
        };
        let [x, y, z] = [0, 1, 2].map(|i| root(xyz[i] / WHITE[i]));
        [116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)]
    }

    fn xyz_of_lab(lab: [f64; 3]) -> [f64; 3] {
        let y = (lab[0] + 16.0) / 116.0;
        let cube = |v: f64| {
            if v > 0.206896 {
                v * v * v
            } else {
                (116.0 * v - 16.0) / 903.3
            }
        };
        let cubes = [y + lab[1] / 500.0, y, y - lab[2] / 200.0].map(cube);
        [0, 1, 2].map(|i| cubes[i] * WHITE[i])
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, forward, refusal, tensor};
    use super::*;
    use crate::frontend::proto::ColorConvParameter;
    use ColorSpace::{Bgr, Gray, Lab, Rgb, Xyz};

    fn param(input: ColorSpace, output: ColorSpace) -> LayerParameter {
        let p = ColorConvParameter {
            input: Some(input.into()),
            output: Some(output.into()),
        };
        LayerParameter {
            color_conv_param: Some(p.into()),
            ..LayerParameter::default()
        }
    }

    fn convert(input: ColorSpace, output: ColorSpace, color: &[f32]) -> Vec<f32> {
        let bottom = tensor(&[1, color.len(), 1, 1], color);
        forward::<ColorConv>(&param(input, output), &[bottom], &[])
            .remove(0)
            .data
    }

    #[test]
    fn white_black_and_red() {
        // Rows of the matrix sum to 0.95047, 1 and 1.08883.
        let white = convert(Rgb, Xyz, &[255.; 3]);
        assert_close(&white, &[0.95047, 1., 1.0888299], 1e-6);
        // Its x is a little off the white of Lab: 500 · (cbrt(0.95047 / 0.95074) − 1).
        assert_close(&convert(Bgr, Lab, &[255.; 3]), &[100., -0.04733, 0.], 1e-4);
        assert_close(&convert(Bgr, Lab, &[0.; 3]), &[0.; 3], 1e-6);
        assert_close(
            &convert(Bgr, Xyz, &[0., 0., 255.]),
            &[0.4124564, 0.2126729, 0.0193339],
            1e-6,
        );
        // 116 · cbrt(0.2126729) − 16
        assert_close(&convert(Bgr, Lab, &[0., 0., 255.])[..1], &[53.2408], 1e-4);
    }

    #[test]
    fn there_and_back() {
        let color = [200., 30., 5.];
        for space in [Xyz, Lab] {
            let there = convert(Rgb, space, &color);
            assert_close(&convert(space, Rgb, &there), &color, 1e-4);
            assert_close(&convert(space, Bgr, &there), &[5., 30., 200.], 1e-4);
        }
        let xyz = convert(Lab, Xyz, &[50., 20., -30.]);
        assert_close(&convert(Xyz, Lab, &xyz), &[50., 20., -30.], 1e-4);
    }

    #[test]
    fn gray() {
        assert_close(&convert(Bgr, Gray, &[10., 20., 30.]), &[21.40498], 1e-6);
        assert_eq!(convert(Gray, Bgr, &[7.]), [7.; 3]);
        assert_eq!(convert(Bgr, Rgb, &[1., 2., 3.]), [3., 2., 1.]);
        assert_eq!(convert(Rgb, Rgb, &[1., 2., 3.]), [1., 2., 3.]);
    }

    #[test]
    fn refusals() {
        let three: &[usize] = &[1, 3, 2, 2];
        for (p, dims, field) in [
            (param(Gray, Lab), three, "color_conv_param.output"),
            (param(Xyz, Xyz), three, "color_conv_param.output"),
            (param(Gray, Rgb), three, "bottom"),
            (param(Rgb, Lab), &[3, 2, 2], "bottom"),
        ] {
            let got = refusal::<ColorConv>(&p, &[dims]);
            assert!(got.starts_with(&format!("{field}: ")), "{got}");
        }
    }
}
