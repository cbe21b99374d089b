//! A folder of files as a site: media types, compressed variants, hashes.

use anyhow::{Context, ensure};
use brotli::CompressorWriter;
use flate2::{Compression, GzBuilder};
use shared_types::Digest;
use shared_types::ui::{ASSETS_PATH, ContentEncoding, FileVariant, SiteFile, site_hash};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

/// Largest Brotli quality (RFC 7932 has none; 11 is the format's reference implementation's) and its window, 2^22 bytes.
const BROTLI: (u32, u32) = (11, 22);
/// What a compressed variant has to save to be worth its place.
const WORTH: f64 = 0.9;

/// A site, ready to be sent.
pub struct Folder {
    /// Its files, ordered by path.
    pub files: Vec<SiteFile>,
    /// The bytes of all variants by their hash.
    pub contents: BTreeMap<Digest, Vec<u8>>,
}

impl Folder {
    /// Reads `folder` and what is in it. Hidden files are left out.
    ///
    /// # Errors
    /// When a file can't be read, has a name that is not UTF-8, or is of a kind that this does not know.
    pub fn read(folder: &Path) -> anyhow::Result<Self> {
        let mut site = Self { files: Vec::new(), contents: BTreeMap::new() };
        site.add(folder, "")?;
        site.files.sort_by(|a, b| a.path.cmp(&b.path));
        ensure!(!site.files.is_empty(), "`{}` has no files", folder.display());
        Ok(site)
    }

    /// The site's hash.
    pub fn hash(&self) -> Digest {
        site_hash(&self.files)
    }

    fn add(&mut self, folder: &Path, path: &str) -> anyhow::Result<()> {
        let unreadable = || format!("`{}` can't be read", folder.display());
        for entry in std::fs::read_dir(folder).with_context(unreadable)? {
            let entry = entry.with_context(unreadable)?;
            let name = entry.file_name();
            let name = name.to_str().with_context(|| format!("{} is no UTF-8", entry.path().display()))?;
            if name.starts_with('.') {
                continue;
            }
            let path = format!("{path}/{name}");
            if entry.file_type().with_context(unreadable)?.is_dir() {
                self.add(&entry.path(), &path)?;
            } else {
                let file = entry.path();
                let bytes =
                    std::fs::read(&file).with_context(|| format!("`{}` can't be read", file.display()))?;
                self.add_file(path, bytes)?;
            }
        }
        Ok(())
    }

    fn add_file(&mut self, path: String, bytes: Vec<u8>) -> anyhow::Result<()> {
        let (content_type, compressible) = media_type(&path)?;
        let mut variants = Vec::new();
        if compressible {
            for (encoding, coded) in
                [(ContentEncoding::Gzip, gzip(&bytes)?), (ContentEncoding::Brotli, brotli(&bytes)?)]
            {
                if (coded.len() as f64) < WORTH * bytes.len() as f64 {
                    variants.push(self.keep(encoding, coded));
                }
            }
        }
        variants.insert(0, self.keep(ContentEncoding::Identity, bytes));
        let immutable = path.starts_with(&format!("{ASSETS_PATH}/"));
        self.files.push(SiteFile { path, content_type: content_type.to_owned(), immutable, variants });
        Ok(())
    }

    fn keep(&mut self, encoding: ContentEncoding, bytes: Vec<u8>) -> FileVariant {
        let variant = FileVariant { encoding, sha256: Digest::of(&bytes), bytes: bytes.len() as u64 };
        self.contents.insert(variant.sha256, bytes);
        variant
    }
}

fn gzip(bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    // Without name and time, so that the same bytes always give the same.
    let mut writer = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    writer.write_all(bytes)?;
    Ok(writer.finish()?)
}

fn brotli(bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut coded = Vec::new();
    CompressorWriter::new(&mut coded, 1 << 16, BROTLI.0, BROTLI.1).write_all(bytes)?;
    Ok(coded)
}

/// The media type of a file by its extension, and whether it is worth compressing.
fn media_type(path: &str) -> anyhow::Result<(&'static str, bool)> {
    let extension = path.rsplit_once('.').map_or("", |(_, extension)| extension);
    Ok(match extension {
        "html" => ("text/html; charset=utf-8", true),
        "js" | "mjs" => ("text/javascript; charset=utf-8", true),
        "css" => ("text/css; charset=utf-8", true),
        "json" => ("application/json", true),
        "webmanifest" => ("application/manifest+json", true),
        "svg" => ("image/svg+xml", true),
        "txt" => ("text/plain; charset=utf-8", true),
        "wasm" => ("application/wasm", true),
        "bin" => ("application/octet-stream", false),
        "png" => ("image/png", false),
        "ico" => ("image/x-icon", false),
        "webp" => ("image/webp", false),
        "woff2" => ("font/woff2", false),
        _ => anyhow::bail!("`{path}` is of no kind that a site has; remove it"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_the_same_site_every_time() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("assets")).unwrap();
        std::fs::write(folder.path().join("index.html"), "<p>page</p>".repeat(100)).unwrap();
        std::fs::write(folder.path().join("assets/a-1234.js"), "1;").unwrap();
        std::fs::write(folder.path().join(".hidden"), "").unwrap();
        let site = Folder::read(folder.path()).unwrap();
        let of = |site: &Folder| -> Vec<(String, bool, usize)> {
            site.files.iter().map(|file| (file.path.clone(), file.immutable, file.variants.len())).collect()
        };
        // What is too short to be worth compressing is not.
        assert_eq!(of(&site), [("/assets/a-1234.js".into(), true, 1), ("/index.html".into(), false, 3)]);
        assert_eq!(site.hash(), Folder::read(folder.path()).unwrap().hash());
        std::fs::write(folder.path().join("assets/a-1234.js"), "2;").unwrap();
        assert_ne!(site.hash(), Folder::read(folder.path()).unwrap().hash());
        std::fs::write(folder.path().join("a.unknown"), "2;").unwrap();
        assert!(Folder::read(folder.path()).is_err());
    }
}
