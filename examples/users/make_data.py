"""Generate users.csv: rows of people who sign up, a few of them invalid.

    python -m examples.users.make_data > examples/users/users.csv
    python -m examples.users.make_data 10000 > ten_thousand.csv

The same seed gives the same bytes on every machine. The code uses only `Random.random`, since Python guarantees the
same numbers only for this method.
"""

# ruff: noqa: RUF001 - people's names have the letters they have

import argparse
import csv
import io
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from examples.users.models import STAFF

T = TypeVar("T")
Row = dict[str, str]

FILE = Path(__file__).with_name("users.csv")
COLUMNS = ("email", "name", "born_on", "country", "plan", "expect")
SEED = 20_260_401
ROWS = 5_000

# The rows that fail on purpose, with their statuses.
UNSERVED = ("US", "BR", "AU", "CA", "IN", "ZA")
UNSERVED_ROWS = 15  # 422
CHILD_ROWS = 10  # 403, if the file is used before 2034
STAFF_ROWS = 6  # 409: the address of an account that a new database contains
PAIRS = 12  # 201|409 each: two rows share an address and run at the same time, so either may succeed

DOMAINS = ("example.com", "example.org", "example.net", "mail.example", "inbox.example", "post.example")
PLANS = ("", "", "", "free", "free", "free", "free", "team", "team", "business")  # empty: the default
OLDEST, YOUNGEST = date(1938, 1, 1), date(2008, 12, 31)
CHILDREN_SINCE, CHILDREN_UNTIL = date(2018, 1, 1), date(2024, 12, 31)

#: Given names and family names by country. `native=latin` gives the spelling in e-mail addresses if it is not obvious.
NAMES = {
    "AT": (
        "Lukas Anna Maximilian Lena Jakob Valentina Elias Magdalena Florian Theresa Sebastian Katharina",
        "Gruber Huber Bauer Wagner Müller Pichler Steiner Moser Mayer Hofer Leitner Fürst",
    ),
    "BE": (
        "Arthur Olivia Noah Emma Jules Louise Lucas Mila Matteo Camille Wout Lotte",
        "Peeters Janssens Maes Jacobs Mertens Willems Claes Goossens Wouters Dubois Lambert Vermeulen",
    ),
    "CH": (
        "Luca Mia Leon Elena Nino Lina Urs Regula Reto Aline Beat Céline",
        "Müller Meier Schmid Keller Weber Huber Schneider Frei Baumann Zürcher Favre Bernasconi",
    ),
    "CZ": (
        "Jiří Jana Petr Tereza Tomáš Lucie Ondřej Kateřina Matěj Eliška Vojtěch Barbora",
        "Krejčí Kočí Janů Petrů Martinů Jirků Pavlů Dolejší Hořejší Tomšů Skočdopole",
    ),
    "DE": (
        "Ben Emma Jonas Hannah Finn Mia Jürgen Sabine Björn Käthe Stefan Anke Günther Zoë Malte Wiebke",
        "Müller Schmidt Schneider Fischer Weber Meyer Wagner Becker Schäfer Koch Richter Krüger Groß Böhm Vogel Weiß",
    ),
    "DK": (
        "Mads Freja Søren Ida Rasmus Karen Jørgen Astrid Mikkel Maja Åge Signe",
        "Nielsen Jensen Hansen Pedersen Andersen Christensen Larsen Sørensen Møller Kjær Østergaard Nørgaard",
    ),
    "ES": (
        "Hugo Lucía Martín María Álvaro Sofía Iñigo Begoña Andrés Inés Jesús Nuria Óscar Rocío",
        "García Fernández González Rodríguez López Martínez Sánchez Pérez Gómez Muñoz Ibáñez Peña Núñez Castaño",
    ),
    "FI": (
        "Eino Aino Väinö Helmi Onni Sofia Mikko Päivi Jyrki Hannele Antti Säde",
        "Korhonen Virtanen Mäkinen Nieminen Mäkelä Hämäläinen Laine Heikkinen Koskinen Järvinen Lehtonen Räsänen",
    ),
    "FR": (
        "Léo Jade Gabriel Louise Raphaël Chloé Étienne Zoé François Hélène Loïc Maëlle Jérôme Océane",
        "Martin Bernard Dubois Thomas Robert Petit Durand Leroy Moreau Lefèvre Mercier Guérin Boyer Lemaître",
    ),
    "GB": (
        "Oliver Amelia George Isla Arthur Ava Noah Freya Rhys Siân Callum Morag Imran Priya",
        "Smith Jones Taylor Brown Williams Wilson Evans Thomas Patel Campbell O'Connor Khan Wright Hughes",
    ),
    "GR": (
        (
            "Γιώργος=giorgos Μαρία=maria Δημήτρης=dimitris Ελένη=eleni Κώστας=kostas Κατερίνα=katerina "
            "Νίκος=nikos Σοφία=sofia Γιάννης=giannis Άννα=anna"
        ),
        (
            "Ιωάννου=ioannou Γεωργίου=georgiou Αθανασίου=athanasiou Νικολάου=nikolaou Οικονόμου=oikonomou "
            "Βασιλείου=vasileiou Δημητρίου=dimitriou Αντωνίου=antoniou Κωνσταντίνου=konstantinou Χρήστου=christou"
        ),
    ),
    "HU": (
        "Bence Hanna Máté Anna Levente Zsófia Dániel Lili Gergő Eszter Zoltán Ágnes",
        "Nagy Kovács Tóth Szabó Horváth Varga Kiss Molnár Németh Farkas Balogh Szűcs",
    ),
    "IE": (
        "Seán Aoife Conor Saoirse Oisín Niamh Cillian Róisín Pádraig Gráinne Fionn Sinéad",
        "Murphy Kelly O'Sullivan Walsh Byrne Ryan O'Brien Doyle McCarthy Gallagher Doherty Ó'Súilleabháin",
    ),
    "IS": (
        "Aron Guðrún Jökull Sigríður Þór Anna Björn Kristín Ólafur Hildur Gunnar Ásta",
        "Blöndal Thorarensen Hansen Briem Möller Waage Thoroddsen Zoëga Hafstein Nordal",
    ),
    "IT": (
        "Leonardo Sofia Francesco Aurora Alessandro Giulia Lorenzo Ginevra Niccolò Alice Matteo Chiara",
        "Rossi Russo Ferrari Esposito Bianchi Romano Colombo Ricci Marino Greco D'Angelo Conti Nicolò",
    ),
    "JP": (
        "陽翔=haruto 葵=aoi 蓮=ren 結衣=yui 湊=minato 美咲=misaki 健太=kenta さくら=sakura 大輔=daisuke 直美=naomi",
        (
            "佐藤=sato 鈴木=suzuki 高橋=takahashi 田中=tanaka 伊藤=ito 渡辺=watanabe 山本=yamamoto 中村=nakamura "
            "小林=kobayashi 加藤=kato"
        ),
    ),
    "NL": (
        "Daan Emma Sem Julia Lucas Tess Bram Sanne Thijs Fleur Jeroen Anouk",
        "Jansen Bakker Visser Smit Meijer Mulder Bos Vos Peters Hendriks Dekker Brouwer",
    ),
    "NO": (
        "Jakob Nora Emil Ingrid Håkon Sunniva Øyvind Solveig Bjørn Åse Lars Kjersti",
        "Hansen Johansen Olsen Larsen Andersen Nilsen Kristiansen Bråthen Sørensen Ødegård Lie Hauge",
    ),
    "PL": (
        "Antoni Zofia Jakub Hanna Szymon Maja Łukasz Małgorzata Paweł Agnieszka Wojciech Żaneta",
        "Nowak Kowalczyk Wójcik Woźniak Król Łuczak Wróbel Dudek Zając Pawlak Sikora Gołąb",
    ),
    "PT": (
        "João Maria Rodrigo Leonor Tomás Matilde Gonçalo Inês Simão Beatriz Sérgio Conceição",
        "Silva Santos Ferreira Pereira Oliveira Costa Rodrigues Gonçalves Araújo Magalhães Simões Brandão",
    ),
    "RO": (
        "Andrei Maria Ștefan Ioana Mihai Elena Răzvan Ana Cătălin Mălina Ionuț Simona",
        "Popescu Ionescu Popa Radu Dumitru Stan Stoica Gheorghe Matei Țurcanu Șerban Munteanu",
    ),
    "SE": (
        "William Alice Hugo Maja Axel Elsa Göran Åsa Sören Märta Erik Linnéa Björn Saga",
        "Andersson Johansson Karlsson Nilsson Eriksson Larsson Olsson Persson Svensson Lindström Bergström Sjöberg",
    ),
    "TR": (
        "Yusuf Zeynep Mustafa Elif Ömer Defne Çağlar Gülşen İbrahim Ayşe Oğuz Şebnem",
        "Yılmaz Kaya Demir Şahin Çelik Yıldız Yıldırım Öztürk Aydın Özdemir Arslan Doğan",
    ),
    "UA": (
        (
            "Олександр=oleksandr Марія=mariia Андрій=andrii Олена=olena Тарас=taras Софія=sofiia Ігор=ihor "
            "Оксана=oksana Максим=maksym Ірина=iryna"
        ),
        (
            "Шевченко=shevchenko Бондаренко=bondarenko Ткаченко=tkachenko Кравченко=kravchenko Коваленко=kovalenko "
            "Мельник=melnyk Марченко=marchenko Савченко=savchenko Поліщук=polishchuk Лисенко=lysenko"
        ),
    ),
}

FAMILY_NAME_FIRST = {"HU", "JP"}

#: Letters that Unicode does not decompose into a letter of the alphabet and a mark.
LATIN = str.maketrans({"ß": "ss", "ø": "o", "ł": "l", "æ": "ae", "ð": "d", "þ": "th", "đ": "d", "ı": "i"})


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.users.make_data", description="Draw users.csv.")
    parser.add_argument("rows", nargs="?", type=int, default=ROWS, help="how many rows (default: %(default)s)")
    sys.stdout.buffer.write(render(make_rows(parser.parse_args().rows)))


def render(rows: Sequence[Row]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def make_rows(count: int = ROWS) -> list[Row]:
    random = Random(SEED)  # noqa: S311 - people who do not exist need no cryptography
    taken = {str(account["email"]) for account in STAFF}
    rows = [draw_person(random, taken) for _ in range(count)]
    spoil(rows, random)
    return rows


def draw_person(random: Random, taken: set[str]) -> Row:
    country = pick(random, tuple(NAMES))
    given, given_latin = split_name(pick(random, NAMES[country][0].split()))
    family, family_latin = split_name(pick(random, NAMES[country][1].split()))
    born_on = draw_day(random, OLDEST, YOUNGEST)
    return {
        "email": draw_email(random, given_latin, family_latin, born_on, taken),
        "name": f"{family} {given}" if country in FAMILY_NAME_FIRST else f"{given} {family}",
        "born_on": born_on.isoformat(),
        "country": country,
        "plan": pick(random, PLANS),
        "expect": "201",
    }


def draw_email(random: Random, given: str, family: str, born_on: date, taken: set[str]) -> str:
    """Return an address that no other row has. If it is used already, add the year of birth, then a number."""
    local = pick(random, (f"{given}.{family}", f"{given[0]}.{family}", f"{family}.{given}", f"{given}{family}"))
    domain = pick(random, DOMAINS)
    candidates = (f"{local}{ending}@{domain}" for ending in endings(born_on))
    email = next(candidate for candidate in candidates if candidate not in taken)
    taken.add(email)
    return email


def endings(born_on: date) -> Iterator[str]:
    yield ""
    yield f"{born_on:%y}"
    yield from (f"{born_on.year + offset}" for offset in range(10_000))


def spoil(rows: list[Row], random: Random) -> None:
    """Make some rows invalid, each in a different way, and write the expected status to `expect`."""
    spoiled = shuffle(random, rows)
    for _ in range(UNSERVED_ROWS):
        spoiled.pop().update(country=pick(random, UNSERVED), expect="422")
    for _ in range(CHILD_ROWS):
        born_on = draw_day(random, CHILDREN_SINCE, CHILDREN_UNTIL)
        spoiled.pop().update(born_on=born_on.isoformat(), expect="403")
    for place in range(STAFF_ROWS):
        account = STAFF[place % len(STAFF)]
        spoiled.pop().update(identity(account), expect="409")
    for place in range(PAIRS):
        first, second = spoiled.pop(), spoiled.pop()
        first["expect"] = "201|409"
        second.update(identity(first), expect="201|409")
        if place % 3 == 0:
            second["email"] = second["email"].upper()


def identity(person: dict[str, Any]) -> Row:
    return {column: str(person[column]) for column in ("email", "name", "born_on", "country")}


def split_name(name: str) -> tuple[str, str]:
    """Return the name in its native spelling and in the spelling for an e-mail address."""
    native, _, latin = name.partition("=")
    return native, latin or to_latin(native)


def to_latin(name: str) -> str:
    letters = unicodedata.normalize("NFKD", name.lower().translate(LATIN))
    return "".join(letter for letter in letters if "a" <= letter <= "z")


def draw_day(random: Random, first: date, last: date) -> date:
    return first + timedelta(days=int(random.random() * ((last - first).days + 1)))


def pick(random: Random, choices: Sequence[T]) -> T:
    return choices[int(random.random() * len(choices))]


def shuffle(random: Random, items: Sequence[T]) -> list[T]:
    return [item for _, _, item in sorted((random.random(), place, item) for place, item in enumerate(items))]


if __name__ == "__main__":
    main()
