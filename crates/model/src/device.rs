//! The one place that knows which backends there are.
//!
//! Names are `flex`, `tch`, `tch:cuda:1`, `cuda`, `cuda:1`. A backend is a cargo feature of the same name plus a value at
//! run time. For training add autodiff: `device::parse("flex")?.autodiff()`.

use burn::tensor::Device;

use crate::ModelError;

/// One form of a device name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Form {
    /// How it is written in help texts.
    written: &'static str,
    /// What stands before the optional `:index`.
    name: &'static str,
    /// Whether `:index` may follow.
    indexed: bool,
    /// The cargo feature that brings the backend.
    feature: &'static str,
    compiled: bool,
}

const FORMS: [Form; 4] = [
    Form {
        written: "flex",
        name: "flex",
        indexed: false,
        feature: "flex",
        compiled: cfg!(feature = "flex"),
    },
    Form {
        written: "tch",
        name: "tch",
        indexed: false,
        feature: "tch",
        compiled: cfg!(feature = "tch"),
    },
    Form {
        written: "tch:cuda[:INDEX]",
        name: "tch:cuda",
        indexed: true,
        feature: "tch",
        compiled: cfg!(feature = "tch"),
    },
    Form {
        written: "cuda[:INDEX]",
        name: "cuda",
        indexed: true,
        feature: "cuda",
        compiled: cfg!(feature = "cuda"),
    },
];

/// The device of a name; plain, so call `.autodiff()` on it to train.
///
/// The hardware is not touched: a GPU that is absent shows at the first tensor.
///
/// # Errors
/// [`ModelError::UnknownDevice`] for a name of no known form, [`ModelError::MissingBackend`] where the backend was not
/// compiled in, naming the cargo feature.
pub fn parse(name: &str) -> Result<Device, ModelError> {
    let found = FORMS.iter().find_map(|form| index(form, name).map(|index| (form, index)));
    let Some((form, index)) = found else {
        let known = FORMS.iter().map(|form| form.written).collect();
        return Err(ModelError::UnknownDevice { name: name.to_owned(), known });
    };
    construct(form.name, index).ok_or_else(|| ModelError::MissingBackend {
        name: name.to_owned(),
        feature: form.feature,
        available: available(),
    })
}

/// The forms of device names whose backend is compiled in.
pub fn available() -> Vec<&'static str> {
    FORMS.iter().filter(|form| form.compiled).map(|form| form.written).collect()
}

/// The index that `name` asks for, 0 where it names none, if `name` has this form.
fn index(form: &Form, name: &str) -> Option<usize> {
    let rest = name.strip_prefix(form.name)?;
    match rest.strip_prefix(':') {
        _ if rest.is_empty() => Some(0),
        Some(digits) if form.indexed && digits.bytes().all(|b| b.is_ascii_digit()) => {
            digits.parse().ok()
        }
        _ => None,
    }
}

/// `None` where the backend is not compiled in.
#[allow(deprecated)] // Upstream will drop LibTorch; until then it is our second CPU backend.
fn construct(name: &str, index: usize) -> Option<Device> {
    let _ = index; // Only some backends count their devices.
    match name {
        #[cfg(feature = "flex")]
        "flex" => Some(Device::flex()),
        #[cfg(feature = "tch")]
        "tch" => Some(Device::libtorch()),
        #[cfg(feature = "tch")]
        "tch:cuda" => Some(Device::libtorch_cuda(index)),
        #[cfg(feature = "cuda")]
        "cuda" => Some(Device::cuda(index)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flex_is_there_and_plain() {
        let device = parse("flex").unwrap();
        assert!(!device.is_autodiff());
        assert!(device.autodiff().is_autodiff());
        assert!(available().contains(&"flex"));
    }

    #[test]
    fn names_are_read_exactly() {
        let known =
            |name: &str| FORMS.iter().find_map(|form| index(form, name).map(|i| (form.name, i)));
        assert_eq!(known("cuda"), Some(("cuda", 0)));
        assert_eq!(known("cuda:3"), Some(("cuda", 3)));
        assert_eq!(known("tch:cuda:1"), Some(("tch:cuda", 1)));
        for bad in [
            "",
            "cpu",
            "flex:0",
            "cuda:",
            "cuda:-1",
            "cuda:x",
            "tch:1",
            "Flex",
            "cuda:99999999999999999999",
        ] {
            assert_eq!(known(bad), None, "{bad}");
            let message = parse(bad).unwrap_err().to_string();
            assert!(message.contains("known devices are flex, tch"), "{message}");
        }
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn an_absent_backend_names_its_feature() {
        let message = parse("cuda:1").unwrap_err().to_string();
        assert!(message.contains("--features cuda") && message.contains("flex"), "{message}");
    }
}
