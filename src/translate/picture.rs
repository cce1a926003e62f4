//! Recognizes pictures by their content.

use bytes::Bytes;

use crate::wechat::media::File;

/// The kinds of pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Gif,
    Jpeg,
    Png,
}

/// The limits of one upload.
#[derive(Debug)]
pub(crate) struct Rule {
    /// The kinds that WeChat accepts.
    pub(crate) kinds: &'static [Kind],
    /// The same as text.
    pub(crate) kinds_text: &'static str,
    /// The limit in bytes.
    pub(crate) most: usize,
    /// The same as text.
    pub(crate) most_text: &'static str,
}

/// Why a picture is not uploaded. Each text states what the caller must send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadPicture {
    /// It is empty or incomplete.
    Incomplete(&'static str),
    /// WeChat does not accept this kind.
    Kind(&'static str),
    /// It has too many bytes.
    Size(&'static str),
}

/// Returns a picture as a file to upload.
pub(crate) fn to_file(content: Bytes, rule: &Rule) -> Result<File, BadPicture> {
    if content.is_empty() {
        return Err(BadPicture::Incomplete("required"));
    }
    let kind = Kind::of(&content).filter(|kind| rule.kinds.contains(kind));
    let kind = kind.ok_or(BadPicture::Kind(rule.kinds_text))?;
    if content.len() > rule.most {
        return Err(BadPicture::Size(rule.most_text));
    }
    if !kind.ends(&content) {
        return Err(BadPicture::Incomplete("has no end: the picture was cut off"));
    }
    let (name, media_type) = match kind {
        Kind::Gif => ("picture.gif", "image/gif"),
        Kind::Jpeg => ("picture.jpg", "image/jpeg"),
        Kind::Png => ("picture.png", "image/png"),
    };
    Ok(File { name, media_type, content })
}

impl Kind {
    fn of(content: &[u8]) -> Option<Self> {
        if infer::image::is_png(content) {
            Some(Self::Png)
        } else if infer::image::is_jpeg(content) {
            Some(Self::Jpeg)
        } else if infer::image::is_gif(content) {
            Some(Self::Gif)
        } else {
            None
        }
    }

    /// Returns whether the picture is complete. More bytes may follow: telephones append the film of a
    /// moving photo to its JPEG, and tools append their notes to a GIF.
    fn ends(self, content: &[u8]) -> bool {
        match self {
            Self::Gif => match gif_ends(content) {
                Some(true) => true,
                // Only padding may follow.
                Some(false) => content.iter().rfind(|byte| **byte != 0) == Some(&TRAILER),
                // Its blocks are unknown, so it may end anywhere.
                None => content.contains(&TRAILER),
            },
            Self::Jpeg => content.windows(2).rev().any(|marker| marker == [0xff, 0xd9]),
            Self::Png => content.windows(4).rev().any(|name| name == b"IEND"),
        }
    }
}

/// The last byte of a GIF.
const TRAILER: u8 = 0x3b;

/// Reads the blocks of a GIF (GIF89a, appendix A), and returns whether its trailer comes before its bytes
/// end. Returns `None` if a block has an unknown kind.
fn gif_ends(content: &[u8]) -> Option<bool> {
    /// In bytes: signature and version, then the logical screen.
    const HEADER: usize = 13;
    const FLAGS: usize = 10;

    fn color_table(flags: u8) -> usize {
        if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) }
    }

    let byte = |at: usize| content.get(at).copied();
    let Some(flags) = byte(FLAGS) else { return Some(false) };
    let mut at = HEADER + color_table(flags);
    loop {
        let sub_blocks = match byte(at) {
            None => return Some(false),
            Some(TRAILER) => return Some(true),
            // An extension, with its label.
            Some(0x21) => at + 2,
            // An image: its position, its colors, and the size of its codes.
            Some(0x2c) => match byte(at + 9) {
                None => return Some(false),
                Some(flags) => at + 10 + color_table(flags) + 1,
            },
            Some(_) => return None,
        };
        at = sub_blocks;
        // The last one is empty.
        loop {
            let Some(length) = byte(at) else { return Some(false) };
            at += 1 + usize::from(length);
            if length == 0 {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR....\0\0\0\0IEND\xae\x42\x60\x82";
    const JPEG: &[u8] = b"\xff\xd8\xff\xe0....\xff\xd9";
    const GIF: &[u8] = b"GIF89a\x01\0\x01\0\x80\0\0\0;\0\xff;\xff\
        !\xf9\x04\x01\0;\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D;\0;";
    const RULE: Rule = Rule {
        kinds: &[Kind::Jpeg, Kind::Png],
        kinds_text: "must be PNG or JPEG",
        most: 64,
        most_text: "must have at most 64 bytes",
    };

    fn name(content: &[u8]) -> Result<&'static str, BadPicture> {
        to_file(Bytes::copy_from_slice(content), &RULE).map(|file| file.name)
    }

    #[test]
    fn picture_kind_follows_its_content() {
        assert_eq!(name(PNG), Ok("picture.png"));
        assert_eq!(name(JPEG), Ok("picture.jpg"));
        assert_eq!(name(&[JPEG, b"ftypmp4 film"].concat()), Ok("picture.jpg"));
        let any = Rule { kinds: &[Kind::Gif], ..RULE };
        let file = to_file(Bytes::from_static(GIF), &any).expect("a GIF");
        assert_eq!(
            (file.name, file.media_type, &file.content[..]),
            ("picture.gif", "image/gif", GIF)
        );
    }

    #[test]
    fn unacceptable_picture_is_rejected_first() {
        for content in [GIF, b"RIFF....WEBPVP8 ", b"\0\0\0\x18ftypheic", b"<svg/>", b"%PDF-1.7"] {
            assert_eq!(name(content), Err(BadPicture::Kind("must be PNG or JPEG")), "{content:?}");
        }
        let large = [JPEG, &[0; 64][..]].concat();
        assert_eq!(name(&large), Err(BadPicture::Size("must have at most 64 bytes")));
        for content in [&b""[..], &PNG[..PNG.len() - 8], &JPEG[..JPEG.len() - 1]] {
            assert!(matches!(name(content), Err(BadPicture::Incomplete(_))), "{content:?}");
        }
    }

    #[test]
    fn gif_ends_with_its_blocks() {
        for more in [&b""[..], b"\0", b"\0\0\0", b"\r\n", b"XMP", b"a note", &[0xff; 2000]] {
            assert!(Kind::Gif.ends(&[GIF, more].concat()), "{more:?}");
        }
        assert!(Kind::Gif.ends(b"GIF87a\x01\0\x01\0\0\0\0;more"));
        // Truncated, although bytes like the last one occur everywhere in it.
        for length in 6..GIF.len() - 1 {
            let cut = &GIF[..length];
            let seems_whole = cut.iter().rfind(|byte| **byte != 0) == Some(&b';');
            assert_eq!(Kind::Gif.ends(cut), seems_whole, "{length}");
        }
        // A block of an unknown kind.
        assert!(Kind::Gif.ends(b"GIF89a\x01\0\x01\0\0\0\0?what;is it"));
        assert!(!Kind::Gif.ends(b"GIF89a\x01\0\x01\0\0\0\0?what is it"));
    }
}
