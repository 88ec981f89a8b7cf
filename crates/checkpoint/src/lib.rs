//! Checkpoints as directories: a versioned manifest, hashed safetensors files, atomic commit.
