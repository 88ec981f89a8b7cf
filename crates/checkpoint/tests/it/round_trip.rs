//! What is saved comes back, bit for bit; other tools read the files.

use std::process::Command;

use caravan_checkpoint::{Checkpoint, Dtype, Meta, SaveTensor, open_latest, save};

use crate::make::{assert_is_step, save_step};

#[test]
fn everything_comes_back() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path().join("run/checkpoints");
    for n in [0, 1, 1000, 300_000] {
        let dir = save_step(&root, 7, n).unwrap();
        assert_is_step(&Checkpoint::open(&dir).unwrap(), 7, n);
        assert_is_step(&open_latest(&root).unwrap().unwrap(), 7, n);
    }
}

#[test]
fn special_floats_keep_their_bits() {
    let root = tempfile::tempdir().unwrap();
    let bits = [0x7fc0_1234, 0xff80_0000, 0x8000_0000, 0x0000_0001, 0x7f7f_ffff];
    let values = bits.iter().map(|&b| f32::from_bits(b)).collect();
    let mut tensors = std::iter::once(SaveTensor::f32("w", &[5], values));
    save(root.path(), 0, &Meta::default(), &mut tensors).unwrap();
    let loaded = open_latest(root.path()).unwrap().unwrap().f32_values("w").unwrap();
    assert_eq!(loaded.iter().map(|v| v.to_bits()).collect::<Vec<_>>(), bits);
}

#[test]
fn no_checkpoint_is_no_error() {
    let root = tempfile::tempdir().unwrap();
    assert!(open_latest(root.path()).unwrap().is_none());
    assert!(open_latest(&root.path().join("absent")).unwrap().is_none());
}

#[test]
fn wrong_requests_are_told_apart() {
    let root = tempfile::tempdir().unwrap();
    let checkpoint = Checkpoint::open(&save_step(root.path(), 1, 10).unwrap()).unwrap();
    let absent = checkpoint.tensor("model/blocks.0.wk.weight").unwrap_err().to_string();
    assert!(
        absent.contains(
            "has no tensor `model/blocks.0.wk.weight`; the closest is `model/blocks.0.wq.weight`"
        ),
        "{absent}"
    );
    let dtype = checkpoint.f32_values("odd").unwrap_err().to_string();
    assert!(dtype.contains("tensor `odd` is U8, expected F32\nhelp: "), "{dtype}");
    let shape = checkpoint.f32_values_of_shape("model/blocks.0.wq.weight", &[5, 2]).unwrap_err();
    assert!(shape.to_string().contains("is of shape [10, 1], expected of shape [5, 2]"), "{shape}");
    let nowhere = Checkpoint::open(root.path()).unwrap_err().to_string();
    assert!(nowhere.contains("is no checkpoint: it has no manifest.json\nhelp: "), "{nowhere}");
}

#[test]
fn inconsistent_tensors_are_refused() {
    let root = tempfile::tempdir().unwrap();
    save_step(root.path(), 1, 10).unwrap();
    let one = |path: &str| SaveTensor::f32(path, &[1], vec![1.0]);
    for (tensors, expected) in [
        (
            vec![one("a"), one("a")],
            "tensor `a` cannot be saved: its path is empty, reserved or taken",
        ),
        (vec![one("")], "tensor `` cannot be saved"),
        (vec![one("__metadata__")], "reserved"),
        (
            vec![SaveTensor::f32("a", &[3], vec![1.0])],
            "shape [3] of F32 needs 12 bytes, 4 were given",
        ),
        (vec![SaveTensor::f32("a", &[usize::MAX, 2], vec![])], "its size overflows"),
    ] {
        let error = save(root.path(), 2, &Meta::default(), &mut tensors.into_iter()).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert_is_step(&open_latest(root.path()).unwrap().unwrap(), 1, 10);
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 2, "leftovers");
    }
}

/// The header that we write by hand is the one the safetensors crate itself reads and would write.
#[test]
fn the_safetensors_crate_reads_the_file() {
    let root = tempfile::tempdir().unwrap();
    let dir = save_step(root.path(), 3, 100).unwrap();
    let bytes = std::fs::read(dir.join("rank-00000.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.len(), 3);
    let view = file.tensor("model/blocks.0.wq.weight").unwrap();
    assert_eq!((view.dtype(), view.shape()), (safetensors::Dtype::F32, &[100, 1][..]));
    let expected: Vec<u8> =
        crate::make::weights(3, 100).iter().flat_map(|v| v.to_le_bytes()).collect();
    assert_eq!(view.data(), expected);
}

#[test]
fn python_reads_the_tensors_and_the_hashes() {
    let test = "python_reads_the_tensors_and_the_hashes";
    let Some(python) = crate::environment::python(test) else { return };
    let root = tempfile::tempdir().unwrap();
    let bf16 = [0x3f80u16, 0xc000].map(u16::to_le_bytes).concat();
    let mut tensors = vec![
        SaveTensor::bytes("half", Dtype::BF16, &[2], &bf16),
        SaveTensor::f32("w", &[2, 2], vec![1.0, 2.0, 3.0, 4.5]),
    ]
    .into_iter();
    let dir = save(root.path(), 9, &Meta::default(), &mut tensors).unwrap();
    let script = "import sys, json; from safetensors.torch import load_file; d = sys.argv[1]; \
        t = load_file(d + '/rank-00000.safetensors'); m = json.load(open(d + '/manifest.json')); \
        print(t['w'].tolist(), t['half'].tolist(), m['step'], [x['path'] for x in m['tensors']])";
    let output = Command::new(python).args(["-c", script]).arg(&dir).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.trim(), "[[1.0, 2.0], [3.0, 4.5]] [1.0, -2.0] 9 ['w', 'half']");
}
