//! Finds the kernel modules that a ramdisk needs, with what they depend on, dependencies first.
//!
//! A kernel package has no `modules.dep`: its installation makes one. Each module says itself
//! what it needs, in its `.modinfo` section (`depends=a,b`), and this reads it from there.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{AtPath, ImageError, Result};
use crate::tools;

/// A module of one kernel, ready to be packed.
pub(crate) struct Module {
    /// With underscores, as the kernel lists it.
    pub(crate) name: String,
    /// Relative to `/lib/modules/RELEASE`, uncompressed name.
    pub(crate) path: PathBuf,
    /// The ELF file.
    pub(crate) data: Vec<u8>,
    depends: Vec<String>,
}

/// The closure of `wanted` over dependencies, each module after all that it needs.
///
/// Modules that the kernel has built in are left out: `modules.builtin` names them.
pub(crate) async fn closure(directory: &Path, wanted: &[&str]) -> Result<Vec<Module>> {
    let files = index(directory)?;
    let builtin = builtin_names(directory)?;
    let mut found: Vec<Module> = Vec::new();
    // A module is pushed back on the stack below its dependencies and taken when they are done.
    let mut stack: Vec<(String, Option<Module>)> = wanted
        .iter()
        .rev()
        .map(|name| (canonical(name), None))
        .collect();
    while let Some((name, loaded)) = stack.pop() {
        if found.iter().any(|module| module.name == name) || builtin.contains(&name) {
            continue;
        }
        if let Some(module) = loaded {
            found.push(module);
            continue;
        }
        if stack
            .iter()
            .any(|(waiting, module)| *waiting == name && module.is_some())
        {
            return Err(ImageError::Distribution(format!(
                "kernel module {name} depends on itself"
            )));
        }
        let file = files
            .get(&name)
            .ok_or_else(|| ImageError::Distribution(format!("this kernel has no module {name}")))?;
        let module = read(directory, &name, file).await?;
        let depends = module.depends.clone();
        stack.push((name, Some(module)));
        stack.extend(depends.into_iter().map(|name| (name, None)));
    }
    Ok(found)
}

/// The text of a `modules.dep` for `modules`, for modprobe.
pub(crate) fn dependency_file(modules: &[Module]) -> String {
    let path_of = |name: &str| {
        modules
            .iter()
            .find(|module| module.name == name)
            .map(|module| module.path.display().to_string())
    };
    let mut text = String::new();
    for module in modules {
        // modprobe loads what stands right of the colon from the last to the first.
        let mut needed = Vec::new();
        transitive(modules, module, &mut needed);
        let paths: Vec<String> = needed
            .iter()
            .rev()
            .filter_map(|name| path_of(name))
            .collect();
        text.push_str(&format!("{}: {}\n", module.path.display(), paths.join(" ")));
    }
    text
}

/// All that `module` needs, dependencies first.
fn transitive(modules: &[Module], module: &Module, needed: &mut Vec<String>) {
    for name in &module.depends {
        if needed.contains(name) {
            continue;
        }
        if let Some(dependency) = modules.iter().find(|candidate| candidate.name == *name) {
            transitive(modules, dependency, needed);
            needed.push(name.clone());
        }
    }
}

/// Every module file below `directory` by its canonical name.
fn index(directory: &Path) -> Result<HashMap<String, PathBuf>> {
    let mut files = HashMap::new();
    let mut pending = vec![directory.join("kernel")];
    while let Some(current) = pending.pop() {
        for entry in fs::read_dir(&current).at(&current)? {
            let entry = entry.at(&current)?;
            let path = entry.path();
            if entry.file_type().at(&path)?.is_dir() {
                pending.push(path);
            } else if let Some(name) = entry.file_name().to_str().and_then(module_name) {
                files.insert(name, path);
            }
        }
    }
    Ok(files)
}

fn builtin_names(directory: &Path) -> Result<Vec<String>> {
    let path = directory.join("modules.builtin");
    let text = fs::read_to_string(&path).at(&path)?;
    Ok(text
        .lines()
        .filter_map(|line| module_name(line.rsplit('/').next()?))
        .collect())
}

/// `virtio-rng.ko.xz` is the module `virtio_rng`.
fn module_name(file_name: &str) -> Option<String> {
    let (name, suffix) = file_name.split_once(".ko")?;
    matches!(suffix, "" | ".xz" | ".zst").then(|| canonical(name))
}

fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

async fn read(directory: &Path, name: &str, file: &Path) -> Result<Module> {
    let data = match file.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => decompress("xz", file).await?,
        Some("zst") => decompress("zstd", file).await?,
        _ => fs::read(file).at(file)?,
    };
    let depends = depends_of(&data).ok_or_else(|| {
        ImageError::Distribution(format!("{} is no kernel module", file.display()))
    })?;
    let relative = file
        .strip_prefix(directory)
        .expect("the index is below the directory");
    let text = relative.to_string_lossy();
    let path = PathBuf::from(text.trim_end_matches(".xz").trim_end_matches(".zst"));
    Ok(Module {
        name: name.to_owned(),
        path,
        data,
        depends,
    })
}

async fn decompress(tool: &str, file: &Path) -> Result<Vec<u8>> {
    let output = tools::command(tool)?
        .arg("-dc")
        .arg(file)
        .output()
        .await
        .at(file)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(ImageError::Program {
        program: tool.to_owned(),
        status: output.status.to_string(),
        detail: tools::last_lines(&output.stderr),
    })
}

/// The value of `depends=` among the NUL-terminated strings of `.modinfo`. Every module has one,
/// empty when it needs nothing.
fn depends_of(elf: &[u8]) -> Option<Vec<String>> {
    const KEY: &[u8] = b"\0depends=";
    let start = elf.windows(KEY.len()).position(|window| window == KEY)? + KEY.len();
    let length = elf[start..].iter().position(|byte| *byte == 0)?;
    let value = std::str::from_utf8(&elf[start..start + length]).ok()?;
    Some(
        value
            .split(',')
            .filter(|name| !name.is_empty())
            .map(canonical)
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(modules: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("kernel")).unwrap();
        fs::write(
            directory.path().join("modules.builtin"),
            "kernel/fs/ext4/ext4.ko\n",
        )
        .unwrap();
        for (name, depends) in modules {
            let data = format!("\x7fELF license=GPL\0depends={depends}\0name={name}\0");
            fs::write(directory.path().join(format!("kernel/{name}.ko")), data).unwrap();
        }
        directory
    }

    #[tokio::test]
    async fn dependencies_come_before_what_needs_them_and_each_once() {
        let tree = tree(&[
            ("ring", ""),
            ("virtio", "ring"),
            ("virtio-pci", "virtio,ring"),
            ("net", "virtio,failover"),
            ("failover", ""),
        ]);
        let modules = closure(tree.path(), &["virtio_pci", "net", "ext4"])
            .await
            .unwrap();
        let names: Vec<&str> = modules.iter().map(|module| module.name.as_str()).collect();
        assert_eq!(names.len(), 5, "{names:?}");
        let place = |name| names.iter().position(|other| *other == name).unwrap();
        assert!(place("ring") < place("virtio") && place("virtio") < place("virtio_pci"));
        assert!(place("failover") < place("net"));
        let text = dependency_file(&modules);
        assert!(
            text.contains("kernel/virtio-pci.ko: kernel/virtio.ko kernel/ring.ko\n"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn an_unknown_module_and_a_cycle_are_errors() {
        let tree = tree(&[("a", "b"), ("b", "a"), ("c", "gone")]);
        assert!(closure(tree.path(), &["a"]).await.is_err());
        assert!(closure(tree.path(), &["c"]).await.is_err());
    }
}
