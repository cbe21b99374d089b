//! What files and configurations have to look like.

use std::collections::BTreeSet;

use shared_types::FieldError;
use shared_types::ui::{
    ContentEncoding, INDEX_PATH, MAX_CONTENT_TYPE_BYTES, MAX_FILE_BYTES, MAX_FILES, MAX_ORIGINS,
    MAX_PATH_BYTES, MAX_SITE_BYTES, MAX_VARIABLE_BYTES, MAX_VARIABLES, SiteConfig, SiteFile,
};

/// Prefix of the names of variables that pages may know, `icp`'s convention.
pub const PUBLIC_PREFIX: &str = "PUBLIC_";

/// What the path of a variant gets at its end inside the certified tree.
pub fn extension(encoding: ContentEncoding) -> &'static str {
    match encoding {
        ContentEncoding::Identity => "",
        ContentEncoding::Gzip => ".gz",
        ContentEncoding::Brotli => ".br",
    }
}

fn refuse(field: &str, path: &str, reason: &str) -> FieldError {
    FieldError::new(field, format!("`{path}` {reason}"))
}

fn check_path(path: &str) -> Result<(), FieldError> {
    FieldError::check_text("files.path", path, MAX_PATH_BYTES)?;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    if !path.bytes().all(allowed) {
        return Err(refuse("files.path", path, "has characters other than letters, digits, `/._-`"));
    }
    let segments = path.strip_prefix('/').map(|rest| rest.split('/'));
    let whole = segments.is_some_and(|mut all| all.all(|name| !matches!(name, "" | "." | "..")));
    if whole { Ok(()) } else { Err(refuse("files.path", path, "is not a path of names from `/`")) }
}

fn check_file(file: &SiteFile) -> Result<(), FieldError> {
    check_path(&file.path)?;
    FieldError::check_text("files.content_type", &file.content_type, MAX_CONTENT_TYPE_BYTES)?;
    if !file.content_type.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
        return Err(refuse("files.content_type", &file.path, "has a media type that is not visible ASCII"));
    }
    let first = file.variants.first().map(|variant| variant.encoding);
    if first != Some(ContentEncoding::Identity) {
        return Err(refuse("files.variants", &file.path, "does not begin with the variant Identity"));
    }
    if !file.variants.is_sorted_by(|a, b| a.encoding < b.encoding) {
        return Err(refuse("files.variants", &file.path, "has variants twice or out of order"));
    }
    let bytes_allowed = 1..=MAX_FILE_BYTES;
    if !file.variants.iter().all(|variant| bytes_allowed.contains(&variant.bytes)) {
        let reason = format!("has a variant that is empty or larger than {MAX_FILE_BYTES} bytes");
        return Err(refuse("files.variants.bytes", &file.path, &reason));
    }
    Ok(())
}

/// Checks the files of a site, ordered by path.
///
/// # Errors
/// Names the field and the file.
pub fn check_files(files: &[SiteFile]) -> Result<(), FieldError> {
    if files.len() > MAX_FILES {
        let reason = format!("has {} files, at most {MAX_FILES} are allowed", files.len());
        return Err(FieldError::new("files", reason));
    }
    files.iter().try_for_each(check_file)?;
    let mut paths = BTreeSet::new();
    for file in files {
        for variant in &file.variants {
            // A variant takes the place of a file with that name.
            if !paths.insert(format!("{}{}", file.path, extension(variant.encoding))) {
                return Err(refuse("files.path", &file.path, "or a variant of it is there twice"));
            }
        }
    }
    if !paths.contains(INDEX_PATH) {
        return Err(FieldError::new("files", format!("has no `{INDEX_PATH}`")));
    }
    let variants = files.iter().flat_map(|file| &file.variants);
    let mut lengths = std::collections::BTreeMap::new();
    for variant in variants.clone() {
        if *lengths.entry(variant.sha256).or_insert(variant.bytes) != variant.bytes {
            let reason = format!("{} is there with two lengths", variant.sha256);
            return Err(FieldError::new("files.variants.bytes", reason));
        }
    }
    let bytes: u64 = variants.map(|variant| variant.bytes).sum();
    if bytes > MAX_SITE_BYTES {
        let reason = format!("has {bytes} bytes, at most {MAX_SITE_BYTES} are allowed");
        return Err(FieldError::new("files", reason));
    }
    Ok(())
}

/// Checks what pages are to know.
///
/// # Errors
/// Names the field.
pub fn check_config(config: &SiteConfig) -> Result<(), FieldError> {
    if config.variables.len() > MAX_VARIABLES || config.connect_origins.len() > MAX_ORIGINS {
        let reason = format!("at most {MAX_VARIABLES} variables and {MAX_ORIGINS} origins are allowed");
        return Err(FieldError::new("config", reason));
    }
    let mut names = BTreeSet::new();
    for variable in &config.variables {
        FieldError::check_text("config.variables.name", &variable.name, MAX_VARIABLE_BYTES)?;
        FieldError::check_text("config.variables.value", &variable.value, MAX_VARIABLE_BYTES)?;
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_:-".contains(&byte);
        if !variable.name.starts_with(PUBLIC_PREFIX) || !variable.name.bytes().all(allowed) {
            let reason = "does not begin with `PUBLIC_`, or has characters other than letters, digits, `_:-`";
            return Err(refuse("config.variables.name", &variable.name, reason));
        }
        if !variable.value.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'&') {
            let reason = "has a value that is not visible ASCII without `&`";
            return Err(refuse("config.variables.value", &variable.name, reason));
        }
        if !names.insert(&variable.name) {
            return Err(refuse("config.variables.name", &variable.name, "is there twice"));
        }
    }
    for origin in &config.connect_origins {
        FieldError::check_text("config.connect_origins", origin, MAX_VARIABLE_BYTES)?;
        let rest = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-:*".contains(&byte);
        // Anything else could begin another directive of the policy.
        if !rest.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(allowed)) {
            return Err(refuse("config.connect_origins", origin, "is no origin like `https://host:port`"));
        }
    }
    Ok(())
}
