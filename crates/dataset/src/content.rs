//! A hash of everything that decides what the shards hold, except the tokenizer: equal hash and
//! equal tokenizer, equal shards.

use blake3::Hasher;

use crate::shard::VERSION;
use crate::{BuildConfig, DatasetError, Unit, find_files, formats};

/// BLAKE3, 64 hexadecimal digits, of the bytes of all source files, in order, and of the settings
/// that change the shards. Names and places of files do not count, nor do weights. Reads every file
/// once, at the speed of the disk.
///
/// # Errors
/// Those of [`BuildConfig::validate`] and [`find_files`], and a file that cannot be read.
pub fn content_hash(config: &BuildConfig) -> Result<String, DatasetError> {
    config.validate()?;
    let mut hasher = Hasher::new();
    hasher.update(b"caravan dataset content 1\n");
    hasher.update(&VERSION.to_le_bytes());
    hasher.update(&config.val_fraction.to_bits().to_le_bytes());
    hasher.update(&config.shard_bytes.to_le_bytes());
    if config.unit != Unit::Document {
        string(&mut hasher, config.unit.name());
    }
    for source in &config.sources {
        hasher.update(b"source");
        string(&mut hasher, &source.text_field);
        // A separator is never empty, so an empty string stands for none.
        string(&mut hasher, source.document_separator.as_deref().unwrap_or_default());
        for path in find_files(source)?.files {
            hasher.update(b"file");
            string(&mut hasher, formats::format_name(&path));
            let mut file = Hasher::new();
            file.update_mmap_rayon(&path).map_err(DatasetError::io("read", &path))?;
            hasher.update(file.finalize().as_bytes());
        }
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// A string with its length before it, so that neighbours cannot be mistaken.
fn string(hasher: &mut Hasher, text: &str) {
    hasher.update(&(text.len() as u64).to_le_bytes());
    hasher.update(text.as_bytes());
}
