//! Pictures as PNG files, and files that appear whole or not at all.

use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why a picture could not be made or written.
#[derive(Debug, Error)]
pub enum PictureError {
    /// The encoder refused it.
    #[error("the picture of {width}x{height} pixels cannot be encoded: {reason}")]
    Encode {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// What the encoder said.
        reason: String,
    },
    /// A file could not be written.
    #[error("cannot write {path}: {source}\nhint: check that the folder exists and that this user may write there")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// Encodes a picture with texts that say how it was made (readable by `exiftool`, `identify -verbose` and the like).
///
/// # Shapes
/// - `pixels`: `[height, width, 3]`, row-major bytes
pub fn encode_png(
    (width, height): (u32, u32),
    pixels: &[u8],
    texts: &[(&str, String)],
) -> Result<Vec<u8>, PictureError> {
    let failed = |error: png::EncodingError| PictureError::Encode { width, height, reason: error.to_string() };
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_source_srgb(png::SrgbRenderingIntent::Perceptual);
    for (keyword, text) in texts {
        // An iTXt chunk is UTF-8; the older tEXt could not hold every prompt.
        encoder.add_itxt_chunk((*keyword).to_owned(), text.clone()).map_err(failed)?;
    }
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(pixels).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(file)
}

/// Writes a file under a temporary name beside its place and renames it, so that nobody ever sees half of it.
pub fn write_whole(path: &Path, content: &[u8]) -> Result<(), PictureError> {
    let failed = |source| PictureError::Write { path: path.to_owned(), source };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // A temporary file is private by default; a result has the permissions that the user's umask gives.
    let permissions = Permissions::from_mode(0o666);
    let mut temporary = tempfile::Builder::new()
        .prefix(".asyncdiff-")
        .suffix(".part")
        .permissions(permissions)
        .tempfile_in(folder)
        .map_err(failed)?;
    temporary.write_all(content).map_err(failed)?;
    temporary.as_file().sync_all().map_err(failed)?;
    temporary.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_survives_the_file_with_its_texts() {
        let pixels: Vec<u8> = (0..2 * 3 * 3).map(|value| value * 7).collect();
        let file = encode_png((3, 2), &pixels, &[("prompt", "ein grünes Herz 💚".to_owned())]).unwrap();
        let mut reader = png::Decoder::new(io::Cursor::new(file)).read_info().unwrap();
        let texts = &reader.info().utf8_text;
        assert_eq!(texts[0].get_text().unwrap(), "ein grünes Herz 💚");
        let mut found = vec![0; pixels.len()];
        reader.next_frame(&mut found).unwrap();
        assert_eq!(found, pixels);
    }

    #[test]
    fn too_few_pixels_are_an_error() {
        assert!(matches!(encode_png((3, 2), &[0; 5], &[]), Err(PictureError::Encode { width: 3, .. })));
    }

    #[test]
    fn a_file_appears_whole_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("picture.png");
        write_whole(&path, b"first").unwrap();
        write_whole(&path, b"second").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_folder_is_named() {
        let error = write_whole(Path::new("/nonexistent/picture.png"), b"").unwrap_err();
        assert!(error.to_string().contains("/nonexistent/picture.png"), "{error}");
    }
}
