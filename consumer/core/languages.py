"""Languages as Whisper and the APIs built on it name them; pure."""

_TABLE = """
    english:en chinese:zh german:de spanish:es russian:ru korean:ko french:fr japanese:ja portuguese:pt turkish:tr
    polish:pl catalan:ca dutch:nl arabic:ar swedish:sv italian:it indonesian:id hindi:hi finnish:fi vietnamese:vi
    hebrew:he ukrainian:uk greek:el malay:ms czech:cs romanian:ro danish:da hungarian:hu tamil:ta norwegian:no
    thai:th urdu:ur croatian:hr bulgarian:bg lithuanian:lt latin:la maori:mi malayalam:ml welsh:cy slovak:sk
    telugu:te persian:fa latvian:lv bengali:bn serbian:sr azerbaijani:az slovenian:sl kannada:kn estonian:et
    macedonian:mk breton:br basque:eu icelandic:is armenian:hy nepali:ne mongolian:mn bosnian:bs kazakh:kk
    albanian:sq swahili:sw galician:gl marathi:mr punjabi:pa sinhala:si khmer:km shona:sn yoruba:yo somali:so
    afrikaans:af occitan:oc georgian:ka belarusian:be tajik:tg sindhi:sd gujarati:gu amharic:am yiddish:yi lao:lo
    uzbek:uz faroese:fo haitian_creole:ht pashto:ps turkmen:tk nynorsk:nn maltese:mt sanskrit:sa luxembourgish:lb
    myanmar:my tibetan:bo tagalog:tl malagasy:mg assamese:as tatar:tt hawaiian:haw lingala:ln hausa:ha bashkir:ba
    javanese:jw sundanese:su cantonese:yue burmese:my valencian:ca flemish:nl haitian:ht letzeburgesch:lb
    pushto:ps panjabi:pa moldavian:ro moldovan:ro sinhalese:si castilian:es mandarin:zh
"""
"""English name and code; a space in a name is written as an underscore."""
_NAMES = {name.replace("_", " "): code for name, _, code in (pair.partition(":") for pair in _TABLE.split())}
WITHOUT_SPACES = frozenset({"zh", "ja", "th", "lo", "km", "my", "yue", "bo"})
"""Written without spaces between words."""
_CODES = frozenset(_NAMES.values())
_SAME = {"nb": "no", "iw": "he", "in": "id", "fil": "tl", "cmn": "zh", "jv": "jw"}
"""BCP 47 subtags that these models know under another code."""


def primary_code(tag: str) -> str:
    """The code of a BCP 47 tag's language: ``en`` for ``en-GB``."""
    primary = tag.replace("_", "-").split("-")[0].lower()
    return _SAME.get(primary, primary)


def is_known(code: str) -> bool:
    """Whether Whisper was trained on the language."""
    return code in _CODES


def code_of_name(name: str | None) -> str | None:
    """The code for what a response calls a language: a code already, or an English name; None: neither."""
    if name is None:
        return None
    plain = name.strip().lower()
    return _NAMES.get(plain) or (primary_code(plain) if is_known(primary_code(plain)) else None)
