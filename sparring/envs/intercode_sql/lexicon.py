"""How the 20 databases' tables, columns and links are called in English: what our questions are made of.

Only what stands here is asked about. Columns are left out that hold no data, filler text, or numbers kept as text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Entity:
    """What a row of a table is, and how its columns are called."""

    noun: str
    """`singer`, or `person|people` where the plural is irregular."""
    label: str
    """The column that names a row."""
    words: Mapping[str, str] = field(default_factory=dict)
    """Columns of text and codes: column → phrase, as in "the … of every singer"."""
    numbers: Mapping[str, str] = field(default_factory=dict)
    dates: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """How a foreign key reads from both ends."""

    one: str = ""
    """The row it points at, as in "the name of …"; empty: `its` and that row's noun."""
    many: str = ""
    """The rows that point at one, as in "with at least two …"; empty: their plural."""


LEXICON: Mapping[str, Mapping[str, Entity]] = {
    "battle_death": {
        "battle": Entity(
            noun="battle",
            label="name",
            words={
                "name": "name",
                "date": "date",
                "bulgarian_commander": "Bulgarian commander",
                "latin_commander": "Latin commander",
                "result": "result",
            },
        ),
        "ship": Entity(
            noun="ship",
            label="name",
            words={
                "name": "name",
                "ship_type": "ship type",
                "location": "location",
                "disposition_of_ship": "disposition",
            },
        ),
        "death": Entity(
            noun="death record",
            label="note",
            words={"note": "note"},
            numbers={"killed": "number of killed", "injured": "number of injured"},
        ),
    },
    "car_1": {
        "CONTINENTS": Entity(noun="continent", label="Continent", words={"Continent": "name"}),
        "COUNTRIES": Entity(noun="country", label="CountryName", words={"CountryName": "name"}),
        "CAR_MAKERS": Entity(noun="car maker", label="Maker", words={"Maker": "short name", "FullName": "full name"}),
        "model_list": Entity(noun="model", label="Model", words={"Model": "name"}),
        "CAR_NAMES": Entity(noun="car", label="Make", words={"Make": "make", "Model": "model name"}),
        "CARS_DATA": Entity(
            noun="car data record|car data records",
            label="Id",
            words={"Id": "id"},
            numbers={
                "Cylinders": "number of cylinders",
                "Edispl": "engine displacement",
                "Weight": "weight",
                "Accelerate": "acceleration",
                "Year": "year",
            },
        ),
    },
    "concert_singer": {
        "stadium": Entity(
            noun="stadium",
            label="Name",
            words={"Name": "name", "Location": "location"},
            numbers={
                "Capacity": "capacity",
                "Highest": "record attendance",
                "Lowest": "minimum attendance",
                "Average": "average attendance",
            },
        ),
        "singer": Entity(
            noun="singer",
            label="Name",
            words={
                "Name": "name",
                "Country": "country",
                "Song_Name": "song name",
                "Song_release_year": "song release year",
            },
            numbers={"Age": "age"},
        ),
        "concert": Entity(
            noun="concert",
            label="concert_Name",
            words={"concert_Name": "name", "Theme": "theme", "Year": "year"},
        ),
        "singer_in_concert": Entity(noun="concert appearance", label="concert_ID"),
    },
    "course_teach": {
        "course": Entity(noun="course", label="Course", words={"Course": "title", "Staring_Date": "starting date"}),
        "teacher": Entity(noun="teacher", label="Name", words={"Name": "name", "Age": "age", "Hometown": "hometown"}),
        "course_arrange": Entity(noun="course arrangement", label="Grade", numbers={"Grade": "grade"}),
    },
    "cre_Doc_Template_Mgt": {
        "Ref_Template_Types": Entity(
            noun="template type",
            label="Template_Type_Description",
            words={"Template_Type_Code": "code", "Template_Type_Description": "description"},
        ),
        "Templates": Entity(
            noun="template",
            label="Template_ID",
            words={"Template_ID": "id", "Template_Type_Code": "type code"},
            numbers={"Version_Number": "version number"},
            dates={"Date_Effective_From": "start date of effect", "Date_Effective_To": "end date of effect"},
        ),
        "Documents": Entity(
            noun="document",
            label="Document_Name",
            words={"Document_Name": "name", "Document_Description": "description"},
        ),
        "Paragraphs": Entity(noun="paragraph", label="Paragraph_Text", words={"Paragraph_Text": "text"}),
    },
    "dog_kennels": {
        "Breeds": Entity(noun="breed", label="breed_name", words={"breed_name": "name", "breed_code": "code"}),
        "Charges": Entity(
            noun="charge", label="charge_type", words={"charge_type": "type"}, numbers={"charge_amount": "amount"}
        ),
        "Sizes": Entity(
            noun="size", label="size_description", words={"size_code": "code", "size_description": "description"}
        ),
        "treatment_types": Entity(
            noun="treatment type",
            label="treatment_type_description",
            words={"treatment_type_code": "code", "treatment_type_description": "description"},
        ),
        "Owners": Entity(
            noun="owner",
            label="last_name",
            words={
                "first_name": "first name",
                "last_name": "last name",
                "city": "city",
                "state": "state",
                "zip_code": "zip code",
                "email_address": "email address",
            },
        ),
        "dogs": Entity(
            noun="dog",
            label="name",
            words={"name": "name", "breed_code": "breed code", "size_code": "size code", "age": "age"},
            dates={"date_of_birth": "date of birth", "date_arrived": "arrival date", "date_adopted": "adoption date"},
        ),
        "professionals": Entity(
            noun="professional",
            label="last_name",
            words={
                "first_name": "first name",
                "last_name": "last name",
                "role_code": "role code",
                "city": "city",
                "state": "state",
                "email_address": "email address",
            },
        ),
        "Treatments": Entity(
            noun="treatment",
            label="treatment_id",
            words={"treatment_id": "id", "treatment_type_code": "type code"},
            numbers={"cost_of_treatment": "cost"},
            dates={"date_of_treatment": "date"},
        ),
    },
    "employee_hire_evaluation": {
        "employee": Entity(
            noun="employee", label="Name", words={"Name": "name", "City": "city"}, numbers={"Age": "age"}
        ),
        "shop": Entity(
            noun="shop",
            label="Name",
            words={
                "Name": "name",
                "Location": "location",
                "District": "district",
                "Manager_name": "manager name",
            },
            numbers={"Number_products": "number of products"},
        ),
        "hiring": Entity(
            noun="hiring record",
            label="Start_from",
            words={"Start_from": "start year", "Is_full_time": "full-time flag"},
        ),
        "evaluation": Entity(
            noun="evaluation",
            label="Year_awarded",
            words={"Year_awarded": "year of award"},
            numbers={"Bonus": "bonus"},
        ),
    },
    "flight_2": {
        "AIRLINES": Entity(noun="airline", label="Airline", words={"Airline": "name", "Abbreviation": "abbreviation"}),
        "AIRPORTS": Entity(
            noun="airport",
            label="AirportName",
            words={"AirportName": "name", "AirportCode": "code", "City": "city"},
        ),
        "FLIGHTS": Entity(
            noun="flight",
            label="FlightNo",
            words={
                "FlightNo": "flight number",
                "SourceAirport": "source airport code",
                "DestAirport": "destination airport code",
            },
        ),
    },
    "museum_visit": {
        "museum": Entity(
            noun="museum",
            label="Name",
            words={"Name": "name", "Open_Year": "opening year"},
            numbers={"Num_of_Staff": "number of staff"},
        ),
        "visitor": Entity(
            noun="visitor",
            label="Name",
            words={"Name": "name"},
            numbers={"Age": "age", "Level_of_membership": "membership level"},
        ),
        "visit": Entity(
            noun="visit",
            label="Num_of_Ticket",
            numbers={"Num_of_Ticket": "number of tickets", "Total_spent": "total amount spent"},
        ),
    },
    "network_1": {
        "Highschooler": Entity(
            noun="high schooler", label="name", words={"name": "name", "ID": "id"}, numbers={"grade": "grade"}
        ),
        "Friend": Entity(noun="friendship", label="student_id"),
        "Likes": Entity(noun="like", label="student_id"),
    },
    "orchestra": {
        "conductor": Entity(
            noun="conductor",
            label="Name",
            words={"Name": "name", "Nationality": "nationality"},
            numbers={"Age": "age", "Year_of_Work": "number of years of work"},
        ),
        "orchestra": Entity(
            noun="orchestra",
            label="Orchestra",
            words={
                "Orchestra": "name",
                "Record_Company": "record company",
                "Major_Record_Format": "major record format",
            },
            numbers={"Year_of_Founded": "founding year"},
        ),
        "performance": Entity(
            noun="performance",
            label="Type",
            words={"Type": "type", "Date": "date", "Share": "share"},
            numbers={"Official_ratings_(millions)": "official rating in millions"},
        ),
        "show": Entity(
            noun="show",
            label="If_first_show",
            words={"Result": "result"},
            numbers={"Attendance": "attendance"},
        ),
    },
    "pets_1": {
        "student": Entity(
            noun="student",
            label="LName",
            words={
                "LName": "last name",
                "Fname": "first name",
                "Sex": "sex",
                "Major": "major",
                "Advisor": "advisor number",
                "city_code": "city code",
            },
            numbers={"Age": "age"},
        ),
        "pets": Entity(
            noun="pet",
            label="PetID",
            words={"PetID": "id", "PetType": "type"},
            numbers={"pet_age": "age", "weight": "weight"},
        ),
        "has_pet": Entity(noun="pet ownership", label="PetID"),
    },
    "poker_player": {
        "people": Entity(
            noun="person|people",
            label="Name",
            words={"Name": "name", "Nationality": "nationality", "Birth_Date": "birth date"},
            numbers={"Height": "height"},
        ),
        "poker_player": Entity(
            noun="poker player",
            label="Poker_Player_ID",
            words={"Poker_Player_ID": "id"},
            numbers={
                "Final_Table_Made": "number of final tables made",
                "Best_Finish": "best finish",
                "Money_Rank": "money rank",
                "Earnings": "amount of earnings",
            },
        ),
    },
    "real_estate_properties": {
        "Ref_Feature_Types": Entity(
            noun="feature type",
            label="feature_type_name",
            words={"feature_type_code": "code", "feature_type_name": "name"},
        ),
        "Ref_Property_Types": Entity(
            noun="property type",
            label="property_type_description",
            words={"property_type_code": "code", "property_type_description": "description"},
        ),
        "Other_Available_Features": Entity(
            noun="available feature",
            label="feature_name",
            words={"feature_name": "name", "feature_type_code": "type code", "feature_description": "description"},
        ),
        "Properties": Entity(
            noun="property",
            label="property_name",
            words={"property_name": "name", "property_type_code": "type code"},
            numbers={"room_count": "room count"},
            dates={"date_on_market": "date on the market", "date_sold": "sale date"},
        ),
        "Other_Property_Features": Entity(
            noun="property feature",
            label="property_feature_description",
            words={"property_feature_description": "description"},
        ),
    },
    "singer": {
        "singer": Entity(
            noun="singer",
            label="Name",
            words={"Name": "name", "Citizenship": "citizenship"},
            numbers={"Birth_Year": "birth year", "Net_Worth_Millions": "net worth in millions"},
        ),
        "song": Entity(
            noun="song",
            label="Title",
            words={"Title": "title"},
            numbers={"Sales": "number of sales", "Highest_Position": "chart position"},
        ),
    },
    "student_transcripts_tracking": {
        "Addresses": Entity(
            noun="address",
            label="line_1",
            words={
                "line_1": "first line",
                "city": "city",
                "zip_postcode": "zip code",
                "state_province_county": "state",
                "country": "country",
            },
        ),
        "Courses": Entity(
            noun="course",
            label="course_name",
            words={"course_name": "name", "course_description": "description"},
        ),
        "Departments": Entity(
            noun="department",
            label="department_name",
            words={"department_name": "name", "department_description": "description"},
        ),
        "Degree_Programs": Entity(
            noun="degree program",
            label="degree_program_id",
            words={"degree_program_id": "id", "degree_summary_name": "name"},
        ),
        "Sections": Entity(
            noun="section",
            label="section_name",
            words={"section_name": "name", "section_description": "description"},
        ),
        "Semesters": Entity(
            noun="semester",
            label="semester_name",
            words={"semester_name": "name", "semester_description": "description"},
        ),
        "students": Entity(
            noun="student",
            label="last_name",
            words={
                "first_name": "first name",
                "middle_name": "middle name",
                "last_name": "last name",
                "cell_mobile_number": "mobile number",
                "email_address": "email address",
            },
            dates={"date_first_registered": "date of first registration", "date_left": "leaving date"},
        ),
        "Student_Enrolment": Entity(
            noun="enrolment", label="student_enrolment_id", words={"student_enrolment_id": "id"}
        ),
        "Student_Enrolment_Courses": Entity(
            noun="course enrolment", label="student_course_id", words={"student_course_id": "id"}
        ),
        "Transcripts": Entity(
            noun="transcript",
            label="transcript_id",
            words={"transcript_id": "id"},
            dates={"transcript_date": "date"},
        ),
        "Transcript_Contents": Entity(noun="transcript entry", label="transcript_id"),
    },
    "tvshow": {
        "TV_Channel": Entity(
            noun="TV channel",
            label="series_name",
            words={
                "series_name": "series name",
                "Country": "country",
                "Language": "language",
                "Pixel_aspect_ratio_PAR": "pixel aspect ratio",
                "Hight_definition_TV": "high definition flag",
                "Package_Option": "package option",
            },
        ),
        "TV_series": Entity(
            noun="TV series episode",
            label="Episode",
            words={"Episode": "title", "Air_Date": "air date"},
            numbers={"Share": "share", "Weekly_Rank": "weekly rank"},
        ),
        "cartoon": Entity(
            noun="cartoon",
            label="Title",
            words={
                "Title": "title",
                "Directed_by": "director",
                "Written_by": "writer",
                "Original_air_date": "original air date",
            },
            numbers={"Production_code": "production code"},
        ),
    },
    "voter_1": {
        "area_code_state": Entity(noun="area code", label="area_code", words={"area_code": "number", "state": "state"}),
        "contestants": Entity(
            noun="contestant",
            label="contestant_name",
            words={"contestant_name": "name", "contestant_number": "number"},
        ),
        "votes": Entity(
            noun="vote",
            label="vote_id",
            words={"vote_id": "id", "state": "state"},
            dates={"created": "creation time"},
        ),
    },
    "world_1": {
        "country": Entity(
            noun="country",
            label="Name",
            words={
                "Name": "name",
                "Code": "code",
                "Continent": "continent",
                "Region": "region",
                "GovernmentForm": "government form",
                "HeadOfState": "head of state",
                "LocalName": "local name",
            },
            numbers={
                "SurfaceArea": "surface area",
                "Population": "population",
                "LifeExpectancy": "life expectancy",
                "GNP": "GNP",
                "IndepYear": "year of independence",
            },
        ),
        "city": Entity(
            noun="city",
            label="Name",
            words={"Name": "name", "District": "district", "CountryCode": "country code"},
            numbers={"Population": "population"},
        ),
        "countrylanguage": Entity(
            noun="country language",
            label="Language",
            words={"Language": "language", "IsOfficial": "official flag", "CountryCode": "country code"},
            numbers={"Percentage": "percentage of speakers"},
        ),
    },
}
"""Database → table → what a row of it is."""

LINKS: Mapping[tuple[str, str, str], Link] = {
    ("battle_death", "ship", "lost_in_battle"): Link(one="the battle it was lost in", many="ships lost in them"),
    ("battle_death", "death", "caused_by_ship_id"): Link(one="the ship that caused it"),
    ("car_1", "CARS_DATA", "Id"): Link(one="its car"),
    ("flight_2", "FLIGHTS", "SourceAirport"): Link(one="its source airport", many="departing flights"),
    ("flight_2", "FLIGHTS", "DestAirport"): Link(one="its destination airport", many="arriving flights"),
    ("network_1", "Friend", "student_id"): Link(one="its student", many="friends"),
    ("network_1", "Friend", "friend_id"): Link(one="its friend", many="friendships in the role of the friend"),
    ("network_1", "Likes", "student_id"): Link(one="the student who likes", many="students they like"),
    ("network_1", "Likes", "liked_id"): Link(one="the student who is liked", many="students who like them"),
    ("student_transcripts_tracking", "students", "current_address_id"): Link(
        one="the current address", many="students who currently live there"
    ),
    ("student_transcripts_tracking", "students", "permanent_address_id"): Link(
        one="the permanent address", many="students who live there permanently"
    ),
    ("tvshow", "TV_series", "Channel"): Link(one="its TV channel", many="TV series episodes"),
    ("world_1", "countrylanguage", "CountryCode"): Link(one="its country", many="languages"),
    ("poker_player", "poker_player", "People_ID"): Link(one="the person"),
    ("pets_1", "has_pet", "StuID"): Link(one="the student", many="pets"),
    ("pets_1", "has_pet", "PetID"): Link(one="the pet", many="owners"),
    ("concert_singer", "singer_in_concert", "Singer_ID"): Link(one="the singer", many="concert appearances"),
    ("concert_singer", "singer_in_concert", "concert_ID"): Link(one="the concert", many="appearing singers"),
}
"""(database, table, column) → how the foreign key reads, where its default does not."""
SUMMABLE = frozenset(
    {
        "amount",
        "amount of earnings",
        "attendance",
        "bonus",
        "capacity",
        "cost",
        "GNP",
        "number of final tables made",
        "number of injured",
        "number of killed",
        "number of products",
        "number of sales",
        "number of staff",
        "number of tickets",
        "population",
        "room count",
        "surface area",
        "weight",
    }
)
"""Phrases of numbers whose total means something."""


def singular(entity: Entity) -> str:
    return entity.noun.partition("|")[0]


def plural(entity: Entity) -> str:
    """Return the noun's plural: the given one, or by rule."""
    one, _, many = entity.noun.partition("|")
    if many:
        return many
    if one.endswith("y") and one[-2] not in "aeiou":
        return one[:-1] + "ies"
    if one.endswith(("series", "data")):
        return one
    return one + ("es" if one.endswith(("s", "x", "ch", "sh")) else "s")
